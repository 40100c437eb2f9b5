//! A real helm against the real server: the one that `HELM` names, else the one that
//! `ci/install-tools` puts into the workspace's `target/tools`.

use std::process::Command;

use crate::common::Cluster;
use serde_json::json;

const CONFIG_MAP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}'}
data: {a: {{ .Values.a | quote }}}
";

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  replicas: 0
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: c, image: busybox, env: [{name: A, value: {{ .Values.a | quote }}}]}]}
";

#[tokio::test]
async fn a_release_is_installed_upgraded_rolled_back_and_removed() {
    let cluster = Cluster::start();
    let server = format!("https://{}", cluster.address);
    let config = bulkhead_api_server::pki::kubeconfig(&cluster.pki(""), "test", &server).unwrap();
    let chart = cluster.dir.path().join("chart");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    for (file, text) in [
        ("../kubeconfig", config.as_str()),
        ("Chart.yaml", "{apiVersion: v2, name: chart, version: 0.1.0}"),
        ("values.yaml", "a: '1'"),
        ("templates/map.yaml", CONFIG_MAP),
        ("templates/deployment.yaml", DEPLOYMENT),
    ] {
        std::fs::write(chart.join(file), text).unwrap();
    }
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/helm");
    let binary = std::env::var_os("HELM").unwrap_or_else(|| installed.into());
    let helm = |line: &str| {
        let output = Command::new(&binary)
            .current_dir(cluster.dir.path())
            .env("KUBECONFIG", cluster.dir.path().join("kubeconfig"))
            .env("HOME", cluster.dir.path())
            .args(line.split(' '))
            .output()
            .expect("helm runs: ci/install-tools installs it");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm {line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut client = cluster.admin().await;
    let map = "/api/v1/namespaces/default/configmaps/web";
    let deployment = "/apis/apps/v1/namespaces/default/deployments/web";
    for (line, value) in
        [("install web chart", "1"), ("upgrade web chart --set a=2", "2"), ("rollback web 1", "1")]
    {
        helm(line);
        assert_eq!(client.get(map).await.1["data"], json!({"a": value}), "{line}");
        let container =
            &client.get(deployment).await.1["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["env"], json!([{"name": "A", "value": value}]), "{line}");
    }
    assert!(helm("list").contains("deployed"));
    helm("uninstall web");
    assert_eq!(client.get(map).await.0, 404);
}
