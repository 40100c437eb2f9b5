//! What programs do with kube-rs, against the cluster of the kubeconfig that is named: with the API, or,
//! if a pod of a shell's image is named as well, with that.
//!
//! Built outside the workspace, by `ci/install-tools`: kube-rs and the types of Kubernetes take long
//! to build, and would change what everything else is built with.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, Config, CustomResource, CustomResourceExt as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

/// No wait takes longer.
const LIMIT: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "kube-rs";

/// A kind of the program's own.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kube.example.com",
    version = "v1",
    kind = "Boat",
    namespaced,
    status = "BoatStatus",
    scale(spec_replicas_path = ".spec.oars", status_replicas_path = ".status.oars"),
    printcolumn(name = "Oars", type_ = "integer", json_path = ".spec.oars")
)]
struct BoatSpec {
    /// How many.
    #[schemars(range(min = 1, max = 8))]
    oars: i32,
    /// Who rows.
    #[serde(default)]
    crew: Vec<String>,
}

/// What is known of a [`Boat`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct BoatStatus {
    /// How many there are.
    #[serde(default)]
    oars: i32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = arguments.next().expect("a kubeconfig is named");
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    match arguments.next() {
        Some(pod) => commands(client, &pod).await,
        None => exercise(client).await,
    }
    println!("kube: all is well");
}

/// All that needs no node.
async fn exercise(client: Client) {
    assert!(!client.apiserver_version().await.unwrap().git_version.is_empty());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = made(json!({"metadata": {"name": NAMESPACE}}));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    lists_and_watches(client.clone()).await;
    streaming_lists(client.clone()).await;
    patches(client.clone()).await;
    own_kinds(client).await;
}

fn made<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    made(json!({"metadata": {"name": name, "labels": {"app": "kube"}}, "data": {"a": "1"}}))
}

/// The next of a stream that goes on.
async fn next<T, E: Debug>(stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> T {
    let next = timeout(LIMIT, stream.try_next()).await.expect("it comes in time");
    next.unwrap().expect("it goes on")
}

async fn lists_and_watches(client: Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    for name in ["first", "second", "third"] {
        maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let params = ListParams::default().labels("app=kube").limit(2);
    let page = maps.list(&params).await.unwrap();
    assert_eq!(page.items.len(), 2);
    let token = page.metadata.continue_.expect("there is more");
    let rest = maps.list(&params.clone().continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.iter().map(ConfigMap::name_any).collect::<Vec<_>>(), ["third"]);
    let metadata = maps.list_metadata(&ListParams::default().labels("app=kube")).await.unwrap();
    assert_eq!(metadata.items.len(), 3);

    let version = rest.metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("app=kube").timeout(60);
    let mut events = maps.watch(&params, &version).await.unwrap().boxed();
    maps.create(&PostParams::default(), &config_map("fourth")).await.unwrap();
    maps.delete("fourth", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match next(&mut events).await {
            WatchEvent::Added(map) => seen.push(format!("added {}", map.name_any())),
            WatchEvent::Deleted(map) => seen.push(format!("deleted {}", map.name_any())),
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["added fourth", "deleted fourth"]);

    let missing = maps.get("none").await.unwrap_err();
    assert!(matches!(missing, kube::Error::Api(status) if status.is_not_found()));
}

/// A watcher that begins with a WatchList: what is there, and a bookmark where that ends.
async fn streaming_lists(client: Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let config = watcher::Config::default().labels("app=kube").streaming_lists();
    let mut events = watcher(maps.clone(), config).boxed();
    let mut there = Vec::new();
    loop {
        match next(&mut events).await {
            Event::Init => {}
            Event::InitApply(map) => there.push(map.name_any()),
            Event::InitDone => break,
            other => panic!("{other:?} before the list's end"),
        }
    }
    there.sort();
    assert_eq!(there, ["first", "second", "third"]);
    maps.delete("second", &DeleteParams::default()).await.unwrap();
    match next(&mut events).await {
        Event::Delete(map) => assert_eq!(map.name_any(), "second"),
        other => panic!("{other:?}"),
    }
}

async fn patches(client: Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let data = |map: ConfigMap| serde_json::to_value(map.data).unwrap();
    let merge = Patch::Merge(json!({"data": {"a": null, "b": "2"}}));
    let merged = maps.patch("first", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(data(merged), json!({"b": "2"}));

    let apply = |value: &str| {
        let mut map = config_map("first");
        map.data = Some([("c".into(), value.into())].into());
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "first"}, "data": map.data}))
    };
    let one = PatchParams::apply("one");
    let applied = maps.patch("first", &one, &apply("3")).await.unwrap();
    let managers: Vec<_> =
        applied.managed_fields().iter().filter_map(|one| one.manager.clone()).collect();
    assert!(managers.contains(&"one".into()), "{managers:?}");
    assert_eq!(data(applied), json!({"b": "2", "c": "3"}));
    let other = PatchParams::apply("other");
    let conflict = maps.patch("first", &other, &apply("4")).await.unwrap_err();
    assert!(matches!(conflict, kube::Error::Api(status) if status.is_conflict()));
    let forced = maps.patch("first", &other.force(), &apply("4")).await.unwrap();
    assert_eq!(data(forced), json!({"b": "2", "c": "4"}));

    let deployments: Api<Deployment> = Api::namespaced(client, NAMESPACE);
    let deployment = made(json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}},
    }}));
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let env = json!([{"name": "A", "value": "1"}]);
    let strategic = Patch::Strategic(json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "env": env}]}}}}));
    let patched = deployments.patch("web", &PatchParams::default(), &strategic).await.unwrap();
    let patched = serde_json::to_value(patched).unwrap();
    let container = &patched["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["env"]), (&json!("busybox:1"), &env));
    let scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(0));
}

/// A definition that the types here derive, and objects of it.
async fn own_kinds(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Boat::crd_name();
    let apply = PatchParams::apply("kube").force();
    definitions.patch(name, &apply, &Patch::Apply(Boat::crd())).await.unwrap();
    let established = conditions::is_crd_established();
    let established = await_condition(definitions.clone(), name, established);
    timeout(LIMIT, established).await.expect("it is established in time").unwrap();

    let boats: Api<Boat> = Api::namespaced(client, NAMESPACE);
    let spec = |oars| BoatSpec { oars, crew: vec!["anna".into()] };
    let made = boats.create(&PostParams::default(), &Boat::new("skiff", spec(2))).await.unwrap();
    assert_eq!(made.spec, spec(2));
    let refused = boats.create(&PostParams::default(), &Boat::new("galley", spec(9))).await;
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 422), "{refused}");
    let status = Patch::Merge(json!({"status": {"oars": 2}}));
    let told = boats.patch_status("skiff", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(told.status, Some(BoatStatus { oars: 2 }));
    let scaled = Patch::Merge(json!({"spec": {"replicas": 4}}));
    boats.patch_scale("skiff", &PatchParams::default(), &scaled).await.unwrap();
    assert_eq!(boats.get("skiff").await.unwrap().spec.oars, 4);
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
}

/// Commands in a pod, with what they say and how they end.
async fn commands(client: Client, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let params = AttachParams::default();
    let command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    let mut process = timeout(LIMIT, pods.exec(pod, command, &params)).await.unwrap().unwrap();
    let (stdout, stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
    assert_eq!((&*stdout, &*stderr), ("out\n", "err\n"));
    let status = timeout(LIMIT, process.take_status().unwrap()).await.unwrap().unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    let status = serde_json::to_value(status).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");

    let params = AttachParams::default().stdin(true).stderr(false);
    let mut process =
        timeout(LIMIT, pods.exec(pod, ["head", "-n1"], &params)).await.unwrap().unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(b"in\n").await.unwrap();
    assert_eq!(read(process.stdout().unwrap()).await, "in\n");
    timeout(LIMIT, process.join()).await.expect("it ends in time").unwrap();
}

async fn read(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut text = String::new();
    let reading = stream.read_to_string(&mut text);
    timeout(LIMIT, reading).await.expect("it ends in time").unwrap();
    text
}
