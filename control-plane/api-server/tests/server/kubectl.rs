//! Real kubectls against the real server. The everyday commands are here, in an order in which they
//! are used; [`crate::commands`] has each with what it can do.

use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, add_node, until};

with_each_kubectl!(everyday_commands, server_side_apply, rights_are_made_asked_for_and_used);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: c, image: 'busybox:1', env: [{name: A, value: '1'}], resources: {requests: {memory: 64Mi}}}
";

async fn everyday_commands(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    add_node(&mut cluster.admin().await, "n1", 1).await;

    assert!(kubectl.run("version").contains("Server Version"));
    assert!(kubectl.run("get nodes -o wide").contains("INTERNAL-IP"));
    assert!(kubectl.run("get ns").contains("kube-node-lease   Active"));
    let resources = kubectl.run("api-resources");
    assert!(
        resources.contains("po ") && resources.contains("coordination.k8s.io/v1"),
        "{resources}"
    );

    let explained = kubectl.run("explain pod.spec.containers.resources");
    for expected in ["FIELD: resources <ResourceRequirements>", "limits\t<map[string]Quantity>"] {
        assert!(explained.contains(expected), "{explained}");
    }
    assert!(kubectl.run("explain pods --recursive").contains("terminationGracePeriodSeconds"));

    let file = kubectl.file("pod.yaml", POD);
    assert_eq!(kubectl.run(&format!("apply -f {file}")), "pod/web created\n");
    bound(&cluster).await;
    assert_eq!(kubectl.run(&format!("apply -f {file}")), "pod/web unchanged\n");
    let changed = kubectl.file("pod2.yaml", &POD.replace("busybox:1", "busybox:2"));
    assert!(kubectl.run(&format!("diff -f {file}")).is_empty());
    assert_eq!(kubectl.run(&format!("apply -f {changed}")), "pod/web configured\n");
    let images = kubectl.run("get pod web -o jsonpath={.spec.containers[*].image}");
    assert_eq!(images, "busybox:2");

    let wide = kubectl.run("get pods -o wide");
    let row: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[2], row[6]), ("web", "0/1", "Pending", "n1"), "{wide}");
    assert!(kubectl.run("get all").contains("web "));
    assert!(kubectl.run("get pods -A -l app=web -o name").contains("pod/web"));
    assert!(
        kubectl.run("get pod web -o json").contains("\"schedulerName\": \"default-scheduler\"")
    );
    assert!(kubectl.run("get pods -o yaml").contains("kind: List"));
    let described = kubectl.run("describe pod web");
    assert!(described.contains("Successfully assigned default/web to n1"), "{described}");
    assert!(kubectl.run("describe node n1").contains("64Mi (6%)"));
    assert!(kubectl.run("get events").contains("Scheduled"));

    kubectl.run("label pod web tier=front");
    kubectl.run("annotate pod web note=x");
    assert_eq!(kubectl.run("get pods -l tier=front -o name"), "pod/web\n");
    kubectl.run("label pod web tier-");
    assert_eq!(kubectl.run("get pods -l tier=front -o name"), "");
    for (kind, patch) in [
        ("strategic", r#"{"spec":{"containers":[{"name":"c","image":"busybox:3"}]}}"#),
        ("merge", r#"{"metadata":{"labels":{"x":"y"}}}"#),
        ("json", r#"[{"op":"replace","path":"/metadata/labels/x","value":"z"}]"#),
    ] {
        kubectl.run(&format!("patch pod web --type {kind} -p {patch}"));
    }
    assert_eq!(kubectl.run("get pod web -o jsonpath={.metadata.labels.x}"), "z");
    kubectl.run("cordon n1");
    assert!(kubectl.run("get nodes").contains("Ready,SchedulingDisabled"));
    kubectl.run("uncordon n1");
    kubectl.run("wait --for=condition=Ready node/n1 --timeout=120s");

    // Typed commands send protobuf.
    kubectl.run("create namespace made");
    kubectl.run("create configmap settings -n made --from-literal=a=1");
    kubectl.run("create secret generic keys -n made --from-literal=k=v");
    kubectl.run("create serviceaccount robot -n made");
    assert_eq!(kubectl.run("get cm settings -n made -o jsonpath={.data.a}"), "1");
    assert_eq!(kubectl.run("get secret keys -n made -o jsonpath={.data.k}"), "dg==");
    kubectl.run("create deployment none -n made --image=busybox --replicas=0");
    assert_eq!(kubectl.run("get deployment none -n made -o jsonpath={.spec.replicas}"), "0");

    let misspelt = kubectl.file("misspelt.yaml", &POD.replace("image:", "immage:"));
    let refused = kubectl.output(&["create", "-f", &misspelt]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    let expected = "strict decoding error: unknown field \"spec.containers[0].immage\"";
    assert!(stderr.contains(expected), "{stderr}");

    let refused =
        kubectl.output(&["patch", "pod", "web", "-p", r#"{"spec":{"restartPolicy":"Never"}}"#]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("pod updates may not change fields"), "{stderr}");
    assert!(kubectl.run("delete pod web --force").contains("force deleted"));
    let missing = kubectl.output(&["get", "pod", "web"]);
    assert!(String::from_utf8(missing.stderr).unwrap().contains("pods \"web\" not found"));
}

/// Waits until the pod is on its node: what changes meanwhile is a difference to `kubectl diff`.
async fn bound(cluster: &Cluster) {
    let pod = "/api/v1/namespaces/default/pods/web";
    until(&mut cluster.admin().await, pod, |pod| pod["spec"]["nodeName"] == "n1").await;
}

/// Debian's: it knows neither aggregated discovery nor OpenAPI v3, and validates by itself with what
/// OpenAPI v2 says, in protobuf.
#[tokio::test]
async fn the_everyday_commands_of_a_very_old_kubectl() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version("1.20", &cluster);
    add_node(&mut cluster.admin().await, "n1", 1).await;

    assert!(kubectl.run("version").contains("Server Version"));
    let explained = kubectl.run("explain pod.spec.containers.resources");
    for expected in ["RESOURCE: resources <Object>", "limits\t<map[string]string>"] {
        assert!(explained.contains(expected), "{explained}");
    }
    let explained = kubectl.run("explain deployment.spec.strategy.rollingUpdate --recursive");
    assert!(explained.contains("maxSurge\t<string>"), "{explained}");
    let misspelt = kubectl.file("misspelt.yaml", &POD.replace("image:", "immage:"));
    let refused = kubectl.output(&["create", "-f", &misspelt]);
    let stderr = String::from_utf8(refused.stderr).unwrap();
    let expected = "ValidationError(Pod.spec.containers[0]): unknown field \"immage\" in \
                    io.k8s.api.core.v1.Container";
    assert!(stderr.contains(expected), "{stderr}");

    let file = kubectl.file("pod.yaml", POD);
    assert_eq!(
        kubectl.run(&format!("apply --dry-run=server -f {file}")),
        "pod/web created (server dry run)\n"
    );
    assert_eq!(kubectl.run(&format!("apply -f {file}")), "pod/web created\n");
    bound(&cluster).await;
    assert!(kubectl.run(&format!("diff -f {file}")).is_empty());
    let changed = kubectl.file("pod2.yaml", &POD.replace("busybox:1", "busybox:2"));
    assert_eq!(kubectl.run(&format!("apply -f {changed}")), "pod/web configured\n");
    assert!(kubectl.run("get pods -o wide").contains("web "));
    assert!(kubectl.run("get all").contains("web "));
    assert!(kubectl.run("describe pod web").contains("busybox:2"));
    kubectl.run("label pod web tier=front");
    assert_eq!(kubectl.run("get pods -l tier=front -o name"), "pod/web\n");
    kubectl.run("create namespace made");
    kubectl.run("create secret generic keys -n made --from-literal=k=v");
    kubectl.run("create deployment none -n made --image=busybox --replicas=0");
    kubectl.run("scale deployment none -n made --replicas=1");
    assert_eq!(kubectl.run("get deployment none -n made -o jsonpath={.spec.replicas}"), "1");
    assert_eq!(kubectl.run("auth can-i create pods"), "yes\n");
    kubectl.run("cordon n1");
    kubectl.run("delete pod web --force");
}

const MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: '1', b: '1'}}";

async fn server_side_apply(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);

    let file = kubectl.file("map.yaml", MAP);
    let apply = |flags: &str, file: &str| format!("apply --server-side{flags} -f {file}");
    let line = apply("", &file);
    assert_eq!(kubectl.run(&line), "configmap/m serverside-applied\n");
    let version = kubectl.run("get cm m -o jsonpath={.metadata.resourceVersion}");
    kubectl.run(&line);
    assert_eq!(kubectl.run("get cm m -o jsonpath={.metadata.resourceVersion}"), version);
    let shown = kubectl.run("get cm m -o yaml --show-managed-fields");
    for expected in ["operation: Apply", "manager: kubectl", "f:data:", "f:a: {}"] {
        assert!(shown.contains(expected), "{shown}");
    }

    // Somebody else's change conflicts until it is forced, or given up.
    kubectl.run(r#"patch cm m --type merge -p {"data":{"a":"2"}} --field-manager other"#);
    let refused = kubectl.output(&line.split(' ').collect::<Vec<_>>());
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("Apply failed with 1 conflict: conflict with \"other\""), "{stderr}");
    assert!(stderr.contains(".data.a"), "{stderr}");
    kubectl.run(&apply(" --force-conflicts", &file));
    assert_eq!(kubectl.run("get cm m -o jsonpath={.data.a}"), "1");
    let less = kubectl.file("less.yaml", &MAP.replace(", b: '1'", ""));
    kubectl.run(&apply("", &less));
    assert_eq!(kubectl.run("get cm m -o jsonpath={.data}"), "{\"a\":\"1\"}");

    // What was applied by the client before becomes the server's to manage.
    let file = kubectl.file("old.yaml", &MAP.replace("name: m", "name: old"));
    kubectl.run(&format!("apply -f {file}"));
    let less =
        kubectl.file("new.yaml", &MAP.replace("name: m", "name: old").replace("b: '1'", "c: '1'"));
    kubectl.run(&apply("", &less));
    let data = kubectl.run("get cm old -o jsonpath={.data}");
    assert_eq!(data, "{\"a\":\"1\",\"c\":\"1\"}");
    let managers = kubectl
        .run("get cm old --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
    assert!(managers.contains("kubectl") && !managers.contains("client-side"), "{managers}");
    let dry = kubectl.file("dry.yaml", &MAP.replace("name: m", "name: dry"));
    kubectl.run(&apply(" --dry-run=server", &dry));
    assert!(!kubectl.output(&["get", "cm", "dry"]).status.success());
}

async fn rights_are_made_asked_for_and_used(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    kubectl.run("create serviceaccount bot");
    kubectl.run("create role reader --verb=get,list --resource=pods,pods/log");
    kubectl.run("create rolebinding bot-reads --role=reader --serviceaccount=default:bot");
    // What is there already is completed, and nobody's rights are taken.
    let more = kubectl.file(
        "more.yaml",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: \
         default}, rules: [{apiGroups: [''], resources: [services], verbs: [get]}]}",
    );
    let told = kubectl.run(&format!("auth reconcile -f {more}"));
    assert!(told.contains("role.rbac.authorization.k8s.io/reader reconciled"), "{told}");
    let resources = kubectl.run("get role reader -o jsonpath={.rules[*].resources[0]}");
    assert!(resources.contains("pods") && resources.contains("services"), "{resources}");
    let bot = "system:serviceaccount:default:bot";
    assert_eq!(kubectl.run(&format!("auth can-i list pods --as {bot}")), "yes\n");
    let no = kubectl.output(&["auth", "can-i", "create", "pods", "--as", bot]);
    assert_eq!((no.status.code(), no.stdout.as_slice()), (Some(1), &b"no\n"[..]));
    let own = kubectl.run(&format!("auth can-i --list --as {bot}"));
    assert!(own.contains("pods/log") && own.contains("selfsubjectreviews"), "{own}");
    let who = kubectl.run(&format!("auth whoami --as {bot}"));
    assert!(who.contains("system:serviceaccounts:default"), "{who}");
    let wide = kubectl.run("get rolebindings -o wide");
    assert!(wide.contains("Role/reader") && wide.contains("default/bot"), "{wide}");
    let token = kubectl.run("create token bot --duration 20m");
    let server = format!("--server=https://localhost:{}", cluster.address.port());
    let authority = format!("--certificate-authority={}", cluster.pki("ca.crt").display());
    let as_bot = |arguments: &[&str]| {
        let credentials = ["--kubeconfig=/dev/null", &server, &authority, "--token", token.trim()];
        kubectl.output(&[&credentials[..], arguments].concat())
    };
    assert!(as_bot(&["get", "pods"]).status.success());
    let refused = as_bot(&["get", "secrets"]);
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr).trim(),
        format!(
            "Error from server (Forbidden): secrets is forbidden: User \"{bot}\" cannot list \
             resource \"secrets\" in API group \"\" in the namespace \"default\""
        )
    );
}
