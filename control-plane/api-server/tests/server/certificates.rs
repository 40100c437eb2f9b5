//! CertificateSigningRequests, made, decided and used with a real kubectl.

use crate::common::kubectl::Kubectl;
use crate::common::{Cluster, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::json;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, key: &KeyPair, groups: &[&str]) -> serde_json::Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "jane");
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    let pem = params.serialize_request(key).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {
        "request": BASE64.encode(pem), "usages": ["client auth"], "expirationSeconds": 3600,
        "signerName": "kubernetes.io/kube-apiserver-client", "username": "somebody-else"}})
}

#[tokio::test]
async fn who_is_approved_gets_a_certificate() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let mut client = cluster.admin().await;
    let key = KeyPair::generate().unwrap();
    let made = client.ok("POST", REQUESTS, &request("jane", &key, &["devs"])).await;
    assert_eq!(made["spec"]["username"], "kubernetes-admin", "as the server knows it");
    let shown = kubectl.run("get csr jane");
    assert!(shown.contains("kubernetes-admin") && shown.contains("60m"), "{shown}");
    assert!(shown.contains("Pending"), "{shown}");
    kubectl.run("certificate approve jane");
    let path = format!("{REQUESTS}/jane");
    let signed = until(&mut client, &path, |one| one["status"]["certificate"].is_string()).await;
    assert!(kubectl.run("get csr jane").contains("Approved,Issued"));
    assert!(kubectl.run("describe csr jane").contains("Common Name:    jane"));

    // The server knows whoever shows it.
    let certificate = signed["status"]["certificate"].as_str().unwrap();
    let certificate = String::from_utf8(BASE64.decode(certificate).unwrap()).unwrap();
    let server = format!("--server=https://localhost:{}", cluster.address.port());
    let authority = format!("--certificate-authority={}", cluster.pki("ca.crt").display());
    let certificate = format!("--client-certificate={}", kubectl.file("jane.crt", &certificate));
    let key_file = format!("--client-key={}", kubectl.file("jane.key", &key.serialize_pem()));
    let who = kubectl.output(&[
        "--kubeconfig=/dev/null",
        &server,
        &authority,
        &certificate,
        &key_file,
        "auth",
        "whoami",
    ]);
    let who = String::from_utf8_lossy(&who.stdout).into_owned();
    assert!(who.contains("jane") && who.contains("[devs system:authenticated]"), "{who}");

    // What was decided stays so, and neither status nor spec say otherwise.
    let (code, _) = client
        .typed(
            "PATCH",
            &format!("{path}/approval"),
            "application/merge-patch+json",
            &json!({"status": {"conditions": []}}),
        )
        .await;
    assert_eq!(code, 422);
    client.ok("POST", REQUESTS, &request("denied", &key, &["devs"])).await;
    kubectl.run("certificate deny denied");
    assert!(kubectl.run("get csr denied").contains("Denied"));
    client.ok("POST", REQUESTS, &request("undecided", &key, &["devs"])).await;
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let path = format!("{REQUESTS}/undecided/status");
    let (_, kept) = client.typed("PATCH", &path, "application/merge-patch+json", &approved).await;
    assert_eq!(kept["status"]["conditions"], json!([]), "that is for the approval: {kept}");
    let (code, refused) =
        client.json("POST", REQUESTS, &request("root", &key, &["system:masters"])).await;
    assert_eq!(code, 403, "{refused}");

    // Who may change approvals must also be let approve for that signer.
    kubectl.run("create clusterrole approver --verb=get,update --resource=certificatesigningrequests,certificatesigningrequests/approval");
    kubectl.run("create clusterrolebinding approver --clusterrole=approver --user=bob");
    let as_bob = ["certificate", "approve", "undecided", "--as", "bob"];
    let refused = kubectl.output(&as_bob);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("not permitted to approve requests with signerName"), "{stderr}");
    let signs = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: signs}, \
        rules: [{apiGroups: [certificates.k8s.io], resources: [signers], verbs: [approve], \
        resourceNames: [kubernetes.io/*]}]}";
    kubectl.run(&format!("apply -f {}", kubectl.file("signs.yaml", signs)));
    kubectl.run("create clusterrolebinding signs --clusterrole=signs --user=bob");
    let approved = kubectl.output(&as_bob);
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
}
