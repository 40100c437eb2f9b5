//! Ephemeral containers.

use super::*;

fn spec(policy: &str, ephemeral: &[&str]) -> Value {
    let containers: Vec<Value> =
        ephemeral.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    json!({
        "restartPolicy": policy, "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "image": "i"}], "ephemeralContainers": containers,
    })
}

fn codes(status: &PodStatus) -> Vec<Option<i32>> {
    let all = status.ephemeral_container_statuses.iter();
    all.map(|one| one.state.terminated.as_ref().map(|end| end.exit_code)).collect()
}

#[tokio::test(start_paused = true)]
async fn they_are_added_to_a_pod_that_runs_and_never_restarted() {
    let bench = Bench::new(&[("c", &[Act::Runs]), ("d", &[Act::Ends(2, 3)]), ("e", &[Act::Runs])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(spec("Always", &[]));
            seconds(1).await;
            bench.apply(spec("Always", &["d"]));
            seconds(1).await;
            let running = &bench.status().ephemeral_container_statuses[0];
            assert!(running.state.running.is_some() && !running.ready);
            assert!(bench.pods.live("u", "d").is_ok());
            // What is there already is not added again.
            bench.apply(spec("Always", &["d", "e"]));
            seconds(60).await;
            let status = bench.status();
            assert_eq!(codes(&status), [Some(3), None]);
            assert_eq!(
                (status.phase, status.container_statuses[0].ready),
                (PodPhase::Running, true)
            );
            let starts: Vec<_> =
                bench.journal().into_iter().filter(|line| line.contains("start")).collect();
            assert_eq!(starts, ["0 start c", "1 start d", "3 start e"]);

            bench.pods.remove("u", Duration::from_secs(5));
            seconds(1).await;
            let journal = bench.journal();
            assert!(journal.iter().any(|line| line.ends_with("term e-0")), "{journal:?}");
            assert!(journal.last().unwrap().ends_with("forget"), "{journal:?}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn they_end_with_the_containers_that_they_look_at() {
    let bench = Bench::new(&[("c", &[Act::Ends(10, 0)]), ("d", &[Act::IgnoresTerm])]);
    LocalSet::new()
        .run_until(async {
            bench.apply(spec("Never", &[]));
            bench.apply(spec("Never", &["d"]));
            seconds(11).await;
            let status = bench.status();
            assert_eq!((status.phase, codes(&status)), (PodPhase::Succeeded, vec![None]));
            seconds(5).await;
            assert_eq!(codes(&bench.status()), [Some(137)]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_nodes_restart_ends_them() {
    let bench = Bench::new(&[]);
    LocalSet::new()
        .run_until(async {
            let before = Bench::new(&[]);
            before.apply(spec("Always", &["d"]));
            seconds(1).await;
            let previous = Some(before.status());
            let assigned = PodAssignment { previous, ..assignment(spec("Always", &["d", "e"])) };
            bench.pods.apply(assigned).unwrap();
            seconds(1).await;
            let status = bench.status();
            assert_eq!(codes(&status), [Some(137), None]);
            assert!(status.ephemeral_container_statuses[1].state.running.is_some());
            let journal = bench.journal();
            assert!(!journal.iter().any(|line| line.contains("start d")), "{journal:?}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_is_told_of_and_keeps_no_other() {
    let bench = Bench::new(&[]);
    LocalSet::new()
        .run_until(async {
            let mut unfit = spec("Always", &["d", "e"]);
            unfit["ephemeralContainers"][0]["workingDir"] = "nowhere".into();
            bench.apply(spec("Always", &[]));
            bench.apply(unfit);
            seconds(1).await;
            let status = bench.status();
            assert_eq!(status.phase, PodPhase::Running);
            let [unfit, fit] = &status.ephemeral_container_statuses[..] else { panic!() };
            let waiting = unfit.state.waiting.as_ref().unwrap();
            assert_eq!(waiting.reason, "CreateContainerConfigError");
            assert!(waiting.message.as_ref().unwrap().starts_with("workingDir: "), "{waiting:?}");
            assert!(fit.state.running.is_some());
        })
        .await;
}
