//! The rules of pods over a runtime that only counts, with time that only the tests move.

mod ephemeral;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bulkhead_agent_protocol::{
    ContainerImage, ImageConfig, PodAssignment, PodData, PodEvent, PodStatus, VolumeFile,
    pod::{Container, Volume},
    status::PodPhase,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::LocalSet,
    time::{Instant, sleep},
};

use super::{Pods, action::Action};
use crate::runtime::{Exit, ExitFuture, Instance, PodContext, Runtime, RuntimeError};

/// What an instance does: ends by itself after some seconds, or runs until it is stopped.
#[derive(Debug, Clone)]
enum Act {
    Ends(u64, i32),
    Runs,
    IgnoresTerm,
    FailsToStart,
    Lacks,
    OutOfMemory,
}

/// An instance's act, and what tells it to end with a code.
type Running = (Act, watch::Sender<Option<i32>>);

#[derive(Default)]
struct Fake {
    acts: RefCell<BTreeMap<String, VecDeque<Act>>>,
    running: RefCell<BTreeMap<String, Running>>,
    /// What was asked, with the second it was asked in.
    journal: RefCell<Vec<String>>,
    begun: RefCell<Option<Instant>>,
    /// From which second on a command succeeds; one that is not here always does.
    healthy: RefCell<BTreeMap<String, u64>>,
    full: RefCell<Option<String>>,
}

impl Fake {
    fn note(&self, what: &str) {
        let begun = *self.begun.borrow_mut().get_or_insert_with(Instant::now);
        self.journal.borrow_mut().push(format!("{} {what}", begun.elapsed().as_secs()));
    }
}

impl Runtime for Fake {
    async fn prepare_pod(&self, _: &PodContext) -> Result<(), RuntimeError> {
        self.note("sandbox");
        Ok(())
    }

    fn refresh_volume(&self, _: &PodContext, volume: &Volume) -> Result<(), RuntimeError> {
        self.note(&format!("volume {}", volume.name));
        Ok(())
    }

    async fn start(
        &self,
        _: &PodContext,
        container: &Container,
        attempt: u32,
    ) -> Result<Instance, RuntimeError> {
        self.note(&format!("start {}", container.name));
        let act = {
            let mut acts = self.acts.borrow_mut();
            let queue = acts.entry(container.name.clone()).or_default();
            if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
        };
        let act = act.unwrap_or(Act::Runs);
        if matches!(act, Act::FailsToStart) {
            return Err(RuntimeError::Start(String::from("no such program")));
        }
        if matches!(act, Act::Lacks) {
            return Err(RuntimeError::Config(String::from("configmap \"m\" not found")));
        }
        let id = format!("{}-{attempt}", container.name);
        let (told, mut tell) = watch::channel(None);
        self.running.borrow_mut().insert(id.clone(), (act.clone(), told));
        let exit: ExitFuture = Box::pin(async move {
            let ended = async {
                match act {
                    Act::Ends(seconds, code) => {
                        sleep(Duration::from_secs(seconds)).await;
                        Exit { code, oom_killed: false, message: None }
                    }
                    Act::OutOfMemory => Exit { code: 137, oom_killed: true, message: None },
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                exit = ended => exit,
                Ok(told) = tell.wait_for(Option::is_some) => {
                    Exit { code: told.unwrap_or(255), oom_killed: false, message: None }
                }
            }
        });
        Ok(Instance { id, exit, io: None, log: None })
    }

    async fn overfull(&self, _: &PodContext) -> Option<String> {
        self.note("measure");
        self.full.borrow().clone()
    }

    async fn act(&self, _: &PodContext, id: &str, action: &Action) -> Result<(), String> {
        let Action::Exec(command) = action else { panic!("{action:?}") };
        self.note(&format!("{} {id}", command[0]));
        if command[0] == "hang" {
            std::future::pending().await
        }
        let healthy = self.healthy.borrow().get(&command[0]).is_none_or(|since| {
            self.begun.borrow().is_some_and(|begun| begun.elapsed() >= Duration::from_secs(*since))
        });
        if healthy { Ok(()) } else { Err(String::from("not yet")) }
    }

    fn terminate(&self, id: &str) {
        self.note(&format!("term {id}"));
        if let Some((act, told)) = self.running.borrow().get(id)
            && !matches!(act, Act::IgnoresTerm)
        {
            told.send_replace(Some(143));
        }
    }

    fn kill(&self, id: &str) {
        self.note(&format!("kill {id}"));
        if let Some((_, told)) = self.running.borrow().get(id) {
            told.send_replace(Some(137));
        }
    }

    async fn remove(&self, id: &str) {
        self.running.borrow_mut().remove(id);
    }

    async fn release_pod(&self, _: &PodContext) {
        self.note("release");
    }

    async fn forget_pod(&self, _: &str) {
        self.note("forget");
    }
}

struct Bench {
    fake: Rc<Fake>,
    pods: Pods<Fake>,
}

impl Bench {
    fn new(acts: &[(&str, &[Act])]) -> Self {
        let fake = Rc::new(Fake::default());
        for (name, acts) in acts {
            fake.acts.borrow_mut().insert((*name).to_owned(), acts.iter().cloned().collect());
        }
        Self { pods: Pods::new(Rc::clone(&fake)), fake }
    }

    fn apply(&self, spec: Value) {
        self.pods.apply(assignment(spec)).unwrap();
    }

    fn status(&self) -> PodStatus {
        self.pods.status("u").unwrap()
    }

    fn journal(&self) -> Vec<String> {
        self.fake.journal.borrow().clone()
    }
}

fn assignment(spec: Value) -> PodAssignment {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let lists = lists.iter().filter_map(|list| spec[*list].as_array());
    let images = lists
        .flatten()
        .map(|container| {
            let image = ContainerImage {
                reference: String::from("i"),
                id: String::from("sha256:0"),
                layers: vec![1],
                config: ImageConfig::default(),
            };
            (container["name"].as_str().unwrap().to_owned(), image)
        })
        .collect();
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    PodAssignment { pod, images, ip: None, data: PodData::default(), previous: None }
}

async fn seconds(n: u64) {
    // A moment more than asked, so that what is due at that second has happened.
    sleep(Duration::from_millis(n * 1000 + 500)).await;
}

fn waiting(status: &PodStatus) -> (&str, &str) {
    let waiting = status.container_statuses[0].state.waiting.as_ref().unwrap();
    (&waiting.reason, waiting.message.as_deref().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_failing_container_restarts_at_once_then_backs_off() {
    let bench = Bench::new(&[("c", &[Act::Ends(0, 3)])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({"containers": [{"name": "c", "image": "i"}]}));
            seconds(71).await;
            let starts: Vec<_> =
                bench.journal().into_iter().filter(|line| line.ends_with("start c")).collect();
            assert_eq!(
                starts,
                ["0 start c", "0 start c", "10 start c", "30 start c", "70 start c"]
            );
            let status = bench.status();
            assert_eq!(status.phase, PodPhase::Running);
            assert_eq!(
                waiting(&status),
                ("CrashLoopBackOff", "back-off 80s restarting failed container=c")
            );
            let container = &status.container_statuses[0];
            assert_eq!(container.restart_count, 5);
            let last = container.last_state.terminated.as_ref().unwrap();
            assert_eq!((last.exit_code, last.reason.as_str()), (3, "Error"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_restart_policy_decides_the_phase() {
    for (policy, code, phase) in [
        ("Never", 0, PodPhase::Succeeded),
        ("Never", 1, PodPhase::Failed),
        ("OnFailure", 0, PodPhase::Succeeded),
        ("OnFailure", 1, PodPhase::Running),
        ("Always", 0, PodPhase::Running),
    ] {
        let bench = Bench::new(&[("c", &[Act::Ends(1, code)])]);
        LocalSet::new()
            .run_until(async {
                bench.apply(json!({
                    "restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}));
                seconds(3).await;
                assert_eq!(bench.status().phase, phase, "{policy} {code}");
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_sidecars_end_last() {
    let bench = Bench::new(&[
        ("a", &[Act::Ends(5, 1), Act::Ends(5, 0)]),
        ("side", &[Act::Runs]),
        ("b", &[Act::Ends(5, 0)]),
        ("c", &[Act::Ends(5, 0)]),
    ]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({
                "restartPolicy": "OnFailure",
                "initContainers": [
                    {"name": "a", "image": "i"},
                    {"name": "side", "image": "i", "restartPolicy": "Always"},
                    {"name": "b", "image": "i"}],
                "containers": [{"name": "c", "image": "i"}]}));
            seconds(1).await;
            assert_eq!(waiting(&bench.status()).0, "PodInitializing");
            assert_eq!(bench.status().phase, PodPhase::Pending);
            seconds(30).await;
            assert_eq!(
                bench.journal(),
                [
                    "0 sandbox",
                    "0 start a",
                    "5 start a",
                    "10 start side",
                    "10 start b",
                    "15 start c",
                    "20 term side-0",
                    "20 release"
                ]
            );
            assert_eq!(bench.status().phase, PodPhase::Succeeded);
            let initialized = bench.status().conditions[0].clone();
            assert_eq!(
                (initialized.kind.as_str(), initialized.status.as_str()),
                ("Initialized", "True")
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn removal_asks_first_then_kills_and_tells_when_nothing_is_left() {
    let bench = Bench::new(&[("c", &[Act::IgnoresTerm])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({"containers": [{"name": "c", "image": "i"}]}));
            seconds(1).await;
            assert!(bench.status().container_statuses[0].ready);
            let (known, mut events) = bench.pods.watch();
            assert_eq!(known.len(), 1);
            bench.pods.remove("u", Duration::from_secs(30));
            seconds(10).await;
            bench.pods.remove("u", Duration::from_secs(5));
            seconds(10).await;
            assert_eq!(
                bench.journal()[2..],
                ["1 term c-0", "17 kill c-0", "17 release", "17 forget"]
            );
            let mut last = None;
            while let Ok(event) = events.try_recv() {
                last = Some(event);
            }
            let Some(PodEvent::Removed { uid, last }) = last else { panic!("{last:?}") };
            assert_eq!(uid, "u");
            let end = last.container_statuses[0].state.terminated.clone().unwrap();
            assert_eq!(end.exit_code, 137);
            assert!(bench.pods.watch().0.is_empty());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_back_off_does_not_hold_a_removal_up() {
    let bench = Bench::new(&[("c", &[Act::FailsToStart])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({"containers": [{"name": "c", "image": "i"}]}));
            seconds(31).await;
            let status = bench.status();
            let last = status.container_statuses[0].last_state.terminated.as_ref().unwrap();
            assert_eq!((last.exit_code, last.reason.as_str()), (128, "StartError"));
            bench.pods.remove("u", Duration::from_secs(30));
            seconds(0).await;
            assert!(bench.pods.status("u").is_none());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_active_deadline_fails_the_pod() {
    let bench = Bench::new(&[]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({
                "activeDeadlineSeconds": 60, "containers": [{"name": "c", "image": "i"}]}));
            seconds(61).await;
            let status = bench.status();
            assert_eq!(status.phase, PodPhase::Failed);
            assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
            assert_eq!(bench.journal()[2..], ["60 term c-0", "60 release"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_for_memory_is_named_and_earlier_boots_are_counted() {
    let bench = Bench::new(&[("c", &[Act::OutOfMemory])]);
    LocalSet::new()
        .run_until(async {
            let spec =
                json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
            bench.apply(spec.clone());
            seconds(1).await;
            let status = bench.status();
            let end = status.container_statuses[0].state.terminated.as_ref().unwrap();
            assert_eq!((end.exit_code, end.reason.as_str()), (137, "OOMKilled"));

            let later = Bench::new(&[]);
            let previous = PodStatus { phase: PodPhase::Running, ..status.clone() };
            let running = PodAssignment {
                previous: Some(previous),
                ..assignment(json!({"containers": [{"name": "c", "image": "i"}]}))
            };
            later.pods.apply(running).unwrap();
            seconds(1).await;
            assert_eq!(later.status().container_statuses[0].restart_count, 1);

            let over = Bench::new(&[]);
            over.pods.apply(PodAssignment { previous: Some(status), ..assignment(spec) }).unwrap();
            seconds(1).await;
            assert_eq!(over.status().phase, PodPhase::Failed);
            assert_eq!(over.journal(), ["0 release"], "what is over does not run again");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn applying_twice_runs_once_and_a_changed_pod_is_refused() {
    let bench = Bench::new(&[]);
    LocalSet::new()
        .run_until(async {
            let spec = json!({"containers": [{"name": "c", "image": "i"}]});
            bench.apply(spec.clone());
            bench.apply(spec);
            seconds(1).await;
            assert_eq!(bench.journal().len(), 2);
            let other = assignment(json!({"containers": [{"name": "c", "image": "j"}]}));
            assert!(bench.pods.apply(other).unwrap_err().message.contains("spec"));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_run_again_fails_with_its_node() {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let ended = |code: i32| json!({"terminated": {"exitCode": code, "reason": "x", "startedAt": "", "finishedAt": ""}});
    let previous = |states: [&Value; 2]| -> PodStatus {
        let statuses = [("a", states[0]), ("b", states[1])].map(|(name, state)| {
            json!({"name": name, "state": state, "ready": false, "restartCount": 0, "image": "i",
                "imageID": "", "started": false, "containerID": format!("bulkhead://{name}")})
        });
        let status = json!({"uid": "u", "phase": "Running", "containerStatuses": statuses});
        serde_json::from_value(status).unwrap()
    };
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "containers": [
            {"name": "a", "image": "i"}, {"name": "b", "image": "i"}]})
    };
    for (policy, states, phase, starts) in [
        ("Never", [&ended(0), &running], PodPhase::Failed, &[][..]),
        ("OnFailure", [&ended(0), &running], PodPhase::Running, &["0 start b"]),
        ("OnFailure", [&ended(1), &running], PodPhase::Running, &["0 start a", "0 start b"]),
        ("Always", [&ended(0), &running], PodPhase::Running, &["0 start a", "0 start b"]),
    ] {
        let bench = Bench::new(&[]);
        LocalSet::new()
            .run_until(async {
                let assigned =
                    PodAssignment { previous: Some(previous(states)), ..assignment(spec(policy)) };
                bench.pods.apply(assigned).unwrap();
                seconds(1).await;
                let journal = bench.journal();
                let started: Vec<_> =
                    journal.iter().filter(|line| line.contains("start")).collect();
                assert_eq!(started, starts, "{policy}");
                let status = bench.status();
                assert_eq!(status.phase, phase, "{policy}");
                let first = &status.container_statuses[0].state;
                assert_eq!(first.terminated.is_some(), starts.len() < 2, "{policy}");
                if policy == "Never" {
                    let end = status.container_statuses[1].state.terminated.as_ref().unwrap();
                    assert_eq!(
                        (end.exit_code, end.reason.as_str()),
                        (137, "ContainerStatusUnknown")
                    );
                }
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_lacks_something_starts_once_it_is_there() {
    let bench = Bench::new(&[("c", &[Act::Lacks, Act::Runs])]);
    LocalSet::new()
        .run_until(async {
            let spec = json!({"containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "configMap": {"name": "m"}}]});
            let mut assigned = assignment(spec);
            assigned.data.volumes.insert(String::from("v"), Vec::new());
            bench.pods.apply(assigned.clone()).unwrap();
            seconds(1).await;
            assert_eq!(waiting(&bench.status()).0, "CreateContainerConfigError");
            let file = VolumeFile {
                path: String::from("k"),
                mode: 0o644,
                data: bulkhead_agent_protocol::stream::Data(Vec::new()),
            };
            assigned.data.volumes.insert(String::from("v"), vec![file]);
            bench.pods.apply(assigned).unwrap();
            seconds(1).await;
            assert_eq!(
                bench.journal(),
                ["0 sandbox", "0 start c", "1 volume v", "1 start c"],
                "it does not wait for its back-off"
            );
            assert_eq!(bench.status().phase, PodPhase::Running);
        })
        .await;
}

fn exec(command: &str) -> Value {
    json!({"exec": {"command": [command]}, "periodSeconds": 2, "failureThreshold": 2})
}

#[tokio::test(start_paused = true)]
async fn startup_gates_the_other_probes_and_readiness_follows_its_own() {
    let bench = Bench::new(&[]);
    bench.fake.healthy.borrow_mut().insert(String::from("up"), 3);
    bench.fake.healthy.borrow_mut().insert(String::from("ready"), 6);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({"containers": [{"name": "c", "image": "i",
                "startupProbe": exec("up"), "readinessProbe": exec("ready")}]}));
            let state = || {
                let container = bench.status().container_statuses[0].clone();
                (container.started, container.ready)
            };
            // Two failures in a row would be too many; the second try, at 2 s, is one.
            bench.fake.healthy.borrow_mut().insert(String::from("up"), 2);
            seconds(1).await;
            assert_eq!(state(), (false, false));
            seconds(2).await;
            assert_eq!(state(), (true, false));
            seconds(4).await;
            assert_eq!(state(), (true, true));
            bench.fake.healthy.borrow_mut().insert(String::from("ready"), 1000);
            seconds(6).await;
            assert_eq!(state(), (true, false));
            assert_eq!(bench.status().container_statuses[0].restart_count, 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_alive_is_restarted_and_says_why() {
    let bench = Bench::new(&[]);
    bench.fake.healthy.borrow_mut().insert(String::from("alive"), 1000);
    LocalSet::new()
        .run_until(async {
            let (_, mut events) = bench.pods.watch();
            bench.apply(json!({"containers": [
                {"name": "c", "image": "i", "livenessProbe": exec("alive")}]}));
            seconds(3).await;
            assert_eq!(
                bench.journal()[1..],
                [
                    "0 start c",
                    "0 alive c-0",
                    "2 alive c-0",
                    "2 term c-0",
                    "2 start c",
                    "2 alive c-1"
                ]
            );
            let mut said = Vec::new();
            while let Ok(event) = events.try_recv() {
                if let PodEvent::Notice { reason, message, .. } = event {
                    said.push((reason, message));
                }
            }
            let unhealthy = ("Unhealthy".into(), "Liveness probe failed: not yet".into());
            let killing =
                ("Killing".into(), "Container c failed liveness probe, will be restarted".into());
            assert_eq!(said[..3], [unhealthy.clone(), unhealthy, killing]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_the_end_has_the_grace_period_and_two_seconds_more() {
    for (hook, journal) in [
        ("bye", ["1 bye c-0", "1 term c-0", "11 kill c-0"]),
        ("hang", ["1 hang c-0", "11 term c-0", "13 kill c-0"]),
    ] {
        let bench = Bench::new(&[("c", &[Act::IgnoresTerm])]);
        LocalSet::new()
            .run_until(async {
                bench.apply(json!({"containers": [{"name": "c", "image": "i",
                    "lifecycle": {"preStop": {"exec": {"command": [hook]}}}}]}));
                seconds(1).await;
                bench.pods.remove("u", Duration::from_secs(10));
                seconds(20).await;
                assert_eq!(bench.journal()[2..5], journal);
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_after_the_start_ends_the_container() {
    let bench = Bench::new(&[]);
    bench.fake.healthy.borrow_mut().insert(String::from("hello"), 1000);
    LocalSet::new()
        .run_until(async {
            bench
                .apply(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
                "lifecycle": {"postStart": {"exec": {"command": ["hello"]}}}}]}));
            seconds(1).await;
            assert_eq!(bench.journal()[1..4], ["0 start c", "0 hello c-0", "0 term c-0"]);
            assert_eq!(bench.status().phase, PodPhase::Failed);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_volume_is_over_its_limit_is_evicted() {
    let bench = Bench::new(&[("c", &[Act::IgnoresTerm])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(json!({"containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}));
            seconds(15).await;
            assert_eq!(bench.status().phase, PodPhase::Running);
            *bench.fake.full.borrow_mut() = Some(String::from("too much"));
            seconds(10).await;
            let status = bench.status();
            assert_eq!(status.phase, PodPhase::Failed);
            assert_eq!(status.reason.as_deref(), Some("Evicted"));
            assert_eq!(
                bench.journal()[2..],
                ["10 measure", "20 measure", "20 term c-0", "21 kill c-0", "21 release"]
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_has_ended_whatever_its_policy() {
    for (act, phase) in [
        (Act::Runs, PodPhase::Failed),
        (Act::Ends(0, 0), PodPhase::Succeeded),
        (Act::Lacks, PodPhase::Failed),
    ] {
        let bench = Bench::new(&[("c", std::slice::from_ref(&act))]);
        LocalSet::new()
            .run_until(async {
                bench.apply(json!({
                    "restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
                seconds(1).await;
                let mut events = bench.pods.watch().1;
                bench.pods.remove("u", Duration::from_secs(5));
                let last = loop {
                    if let PodEvent::Removed { last, .. } = events.recv().await.unwrap() {
                        break last;
                    }
                };
                assert_eq!(last.phase, phase, "{act:?}");
            })
            .await;
    }
}
