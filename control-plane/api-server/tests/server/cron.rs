//! CronJobs with kubectl, on hollow nodes.

use crate::common::hollow::Hollow;
use crate::common::kubectl::Kubectl;
use crate::common::{Cluster, until};
use serde_json::{Value, json};

const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

// Every minute of a day in January: the last time of each is the day's last minute, whatever
// time it is (but on these days), and later than that of the schedule before it.
const EARLY: &str = "* * 2 1 *";
const LATER: &str = "* * 3 1 *";
const LAST: &str = "* * 4 1 *";

fn jobs(list: &Value) -> &[Value] {
    list["items"].as_array().unwrap()
}

fn cron(name: &str, image: &str, spec: &Value) -> Value {
    let containers = json!([{"name": "c", "image": image}]);
    let pod = json!({"spec": {"containers": containers, "restartPolicy": "Never"}});
    let job = json!({"metadata": {"labels": {"of": name}}, "spec": {"template": pod}});
    let mut cron = json!({
        "metadata": {"name": name},
        "spec": {"schedule": EARLY, "suspend": true, "jobTemplate": job},
    });
    cron["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cron
}

/// Makes a time of the schedule due: the last that was seen is long ago.
async fn make_due(client: &mut crate::common::Client, name: &str, schedule: &str) {
    let merge = "application/merge-patch+json";
    let path = format!("{CRON_JOBS}/{name}");
    let schedule = json!({"spec": {"schedule": schedule, "suspend": true}});
    assert_eq!(client.typed("PATCH", &path, merge, &schedule).await.0, 200);
    let long_ago = json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    assert_eq!(client.typed("PATCH", &format!("{path}/status"), merge, &long_ago).await.0, 200);
    let resumed = json!({"spec": {"suspend": false}});
    assert_eq!(client.typed("PATCH", &path, merge, &resumed).await.0, 200);
}

async fn event(client: &mut crate::common::Client, reason: &str) {
    let path = format!("/api/v1/namespaces/default/events?fieldSelector=reason%3D{reason}");
    until(client, &path, |events| !events["items"].as_array().unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_made_at_their_times_and_the_last_are_kept() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;

    let spec = json!({"successfulJobsHistoryLimit": 1, "timeZone": "Asia/Tokyo"});
    client.ok("POST", CRON_JOBS, &cron("early", "exit-0:1", &spec)).await;
    make_due(&mut client, "early", EARLY).await;
    let early = format!("{CRON_JOBS}/early");
    let done = until(&mut client, &early, |one| {
        one["status"]["lastSuccessfulTime"].is_string() && one["status"].get("active").is_none()
    })
    .await;
    let time = done["status"]["lastScheduleTime"].as_str().unwrap();
    assert!(time.ends_with("-01-02T14:59:00Z"), "{time}");
    let mine = format!("{JOBS}?labelSelector=of%3Dearly");
    let first = client.get(&mine).await.1;
    let (job, metadata) = (&jobs(&first)[0], &jobs(&first)[0]["metadata"]);
    assert_eq!(metadata["ownerReferences"][0]["kind"], "CronJob");
    let stamp = &metadata["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert!(stamp.as_str().unwrap().ends_with("+09:00"), "{stamp}");
    let name = job["metadata"]["name"].as_str().unwrap().to_owned();
    for reason in ["SuccessfulCreate", "SawCompletedJob", "TooManyMissedTimes"] {
        event(&mut client, reason).await;
    }

    make_due(&mut client, "early", LATER).await;
    until(&mut client, &mine, |list| {
        jobs(list).len() == 1 && jobs(list)[0]["metadata"]["name"] != name.as_str()
    })
    .await;
    let table = kubectl.run("get cronjobs");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["early", "*", "*", "3", "1", "*", "Asia/Tokyo"], "{table}");
    kubectl.run("delete cronjob early --timeout=120s");
    until(&mut client, &mine, |list| jobs(list).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_run_when_the_next_is_due_are_kept_or_replaced() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    let forbid = json!({"concurrencyPolicy": "Forbid"});
    client.ok("POST", CRON_JOBS, &cron("long", "run:1", &forbid)).await;
    make_due(&mut client, "long", EARLY).await;
    let first = until(&mut client, JOBS, |list| jobs(list).len() == 1).await;
    let active = |one: &Value| one["status"]["active"].as_array().map_or(0, Vec::len);
    let long = format!("{CRON_JOBS}/long");
    until(&mut client, &long, |one| active(one) == 1).await;

    make_due(&mut client, "long", LATER).await;
    event(&mut client, "JobAlreadyActive").await;
    assert_eq!(jobs(&client.get(JOBS).await.1).len(), 1);

    kubectl.run(r#"patch cronjob long -p {"spec":{"concurrencyPolicy":"Replace"}}"#);
    let uid = &jobs(&first)[0]["metadata"]["uid"];
    until(&mut client, JOBS, |list| {
        jobs(list).len() == 1 && jobs(list)[0]["metadata"]["uid"] != *uid
    })
    .await;
    until(&mut client, &long, |one| active(one) == 1).await;

    kubectl.run(r#"patch cronjob long -p {"spec":{"concurrencyPolicy":"Allow"}}"#);
    make_due(&mut client, "long", LAST).await;
    until(&mut client, &long, |one| active(one) == 2).await;
    let described = kubectl.run("describe cronjob long");
    assert!(described.contains("Active Jobs:") && described.contains("Deleted job"), "{described}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_makes_cron_jobs_and_jobs_of_them() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let schedule = "--schedule=0 0 1 1 *";
    let made = kubectl.output(&["create", "cronjob", "yearly", "--image=exit-0:1", schedule]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    kubectl.run("create job now --from=cronjob/yearly");
    kubectl.run("wait --for=condition=Complete job/now --timeout=120s");
    let owner = kubectl.run("get job now -o jsonpath={.metadata.ownerReferences[0].name}");
    assert_eq!(owner, "yearly");
    let table = kubectl.run("get cj");
    let header = "NAME     SCHEDULE    TIMEZONE   SUSPEND   ACTIVE   LAST SCHEDULE   AGE";
    assert!(table.starts_with(header), "{table}");
    assert!(
        table.contains("yearly   0 0 1 1 *   <none>     False     0        <none> "),
        "{table}"
    );
    let refused =
        kubectl.output(&["create", "cronjob", "x", "--image=exit-0:1", "--schedule=often"]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("expected exactly 5 fields"), "{stderr}");
}
