//! Kinds that are kept for those who act on them: written, shown and described by a real kubectl.

use crate::common::Cluster;
use crate::common::kubectl::{Kubectl, OLDER, with_each_kubectl};

with_each_kubectl!(each_is_written_shown_and_described);

const OBJECTS: &str = "
{apiVersion: v1, kind: LimitRange, metadata: {name: range}, spec: {limits: [
  {type: Container, max: {cpu: '2'}, min: {memory: 1Mi}},
  {type: PersistentVolumeClaim, max: {storage: 2Gi}}]}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota}, spec: {hard: {pods: '4', requests.cpu: '2', limits.memory: 1Gi}}}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: template}, template: {metadata: {labels: {a: b}},
  spec: {containers: [{name: c, image: 'busybox:1'}]}}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: volume}, spec: {capacity: {storage: 1Gi},
  accessModes: [ReadWriteOnce, ReadOnlyMany], hostPath: {path: /data}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: claim}, spec: {accessModes: [ReadWriteOnce],
  resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast,
  annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: example.com/disk}
---
{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: attachment},
  spec: {attacher: example.com, nodeName: n1, source: {persistentVolumeName: volume}}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: disk.example.com}, spec: {}}
---
{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: n1}, spec: {drivers: [
  {name: disk.example.com, nodeID: n1}]}}
---
{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: capacity}, storageClassName: fast, capacity: 1Gi}
---
{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: gold}, driverName: disk.example.com,
  parameters: {iops: '100'}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: policy}, spec: {podSelector: {matchLabels: {a: b}},
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: ingress}, spec: {ingressClassName: class, rules: [
  {host: example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: class}, spec: {controller: example.com/ingress}}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: runtime}, handler: runc}
";

async fn each_is_written_shown_and_described(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let file = kubectl.file("objects.yaml", OBJECTS);
    let applied = kubectl.run(&format!("apply -f {file}"));
    assert_eq!(applied.lines().filter(|line| line.ends_with(" created")).count(), 15, "{applied}");
    let again = kubectl.run(&format!("apply -f {file}"));
    // kubectl compares lists without keys as they are before defaults.
    assert_eq!(again.lines().filter(|line| line.ends_with(" unchanged")).count(), 13, "{again}");

    for (object, expected) in [
        ("pv/volume", "1Gi RWO,ROX Retain Pending <unset>"),
        ("pvc/claim", "Pending"),
        ("sc/fast", "(default) example.com/disk Delete Immediate false"),
        ("volumeattachment/attachment", "example.com volume n1 false"),
        ("csidriver/disk.example.com", "true false false <unset> false Persistent"),
        ("csinode/n1", "1"),
        ("csistoragecapacity/capacity", "fast 1Gi"),
        ("vac/gold", "disk.example.com"),
        ("netpol/policy", "a=b"),
        ("ing/ingress", "class example.com 80"),
        ("ingressclass/class", "example.com/ingress <none>"),
        ("runtimeclass/runtime", "runc"),
        ("podtemplate/template", "c busybox:1 a=b"),
        ("limits/range", ""),
        ("quota/quota", ""),
    ] {
        let shown = kubectl.run(&format!("get --no-headers {object}"));
        let row: Vec<&str> = shown.split_whitespace().skip(1).collect();
        assert!(row.join(" ").contains(expected), "{object}: {shown}");
        // The older one reads attributes' classes in the version that they had before they were stable.
        if version != OLDER || !object.starts_with("vac/") {
            let described = kubectl.run(&format!("describe {object}"));
            assert!(described.contains("Name:"), "{object}: {described}");
        }
    }
    let described = kubectl.run("describe limits range");
    assert!(described.contains("cpu       -    2    2                2"), "{described}");
    let described = kubectl.run("describe netpol policy");
    assert!(described.contains("CIDR: 10.0.0.0/8"), "{described}");
    let described = kubectl.run("describe ingress ingress");
    assert!(described.contains("example.com") && described.contains("s:80"), "{described}");
    let explained = kubectl.run("explain storageclass.volumeBindingMode");
    assert!(explained.contains("volumeBindingMode <string>"), "{explained}");
    kubectl.run("create quota more --hard=pods=2,services=1 --scopes=BestEffort");
    kubectl.run("create ingress simple --rule=foo.com/bar=svc1:8080,tls=my-cert");
    assert!(kubectl.run("get ingress simple").contains("80, 443"));

    // What does not change is said by its field.
    for (patch, field) in [
        ("sc fast -p {\"provisioner\":\"other\"}", "provisioner"),
        ("runtimeclass runtime -p {\"handler\":\"other\"}", "handler"),
        ("ingressclass class -p {\"spec\":{\"controller\":\"a.b/c\"}}", "spec.controller"),
        ("pvc claim -p {\"spec\":{\"accessModes\":[\"ReadWriteMany\"]}}", "spec"),
        ("pv volume -p {\"spec\":{\"hostPath\":{\"path\":\"/x\"}}}", "spec.persistentvolumesource"),
    ] {
        let line = format!("patch {patch} --type merge");
        let refused = kubectl.output(&line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(stderr.contains(&format!("is invalid: {field}: ")), "{line}: {stderr}");
    }
    kubectl.run(&format!("delete -f {file}"));
}
