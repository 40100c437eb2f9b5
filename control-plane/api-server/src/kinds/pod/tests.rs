//! Tests of what is wrong with pods, by subject.

use serde_json::{Value, json};

use super::{default, prepare_create, validate, validate_update};
use crate::kinds::testing;

/// A pod with one container and what `spec` says over it.
fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "c:1"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    prepare_create(&mut pod);
    default(&mut pod);
    pod
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "c:1"});
    json_patch::merge(&mut container, &more);
    container
}

/// The fields of `cases`' specs that are wrong are those beside them, without `spec`.
fn check(cases: &[(Value, &[&str])]) {
    for (spec, expected) in cases {
        let fields = testing::fields(validate, pod(spec.clone()));
        let expected: Vec<String> = expected.iter().map(|path| format!("spec.{path}")).collect();
        assert_eq!(fields, expected, "{spec}");
    }
}

/// As [`check`], of a container.
fn check_container(cases: &[(Value, &[&str])]) {
    for (more, expected) in cases {
        let spec = json!({"containers": [container(more.clone())], "volumes": [
            {"name": "a"}, {"name": "b", "persistentVolumeClaim": {"claimName": "b"}}]});
        let fields = testing::fields(validate, pod(spec));
        let path = |path: &&str| format!("spec.containers[0].{path}");
        assert_eq!(fields, expected.iter().map(path).collect::<Vec<_>>(), "{more}");
    }
}

#[test]
fn volumes_come_from_one_source_each() {
    let volume = |volume: Value| json!({"volumes": [volume]});
    check(&[
        (volume(json!({"name": "a", "emptyDir": null})), &[]),
        (
            volume(json!({"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}})),
            &["volumes[0].hostPath"],
        ),
        (json!({"volumes": [{"name": "a"}, {"name": "a"}]}), &["volumes[1].name"]),
        (volume(json!({"name": "a", "secret": {}})), &["volumes[0].secret.secretName"]),
        (
            volume(json!({"name": "a", "hostPath": {"path": "/a/../b", "type": "Disk"}})),
            &["volumes[0].hostPath.path", "volumes[0].hostPath.type"],
        ),
        (
            volume(json!({"name": "a", "configMap": {"name": "m", "defaultMode": 512,
                "items": [{"key": "k", "path": "../x"}, {"path": "x"}]}})),
            &[
                "volumes[0].configMap.defaultMode",
                "volumes[0].configMap.items[0].path",
                "volumes[0].configMap.items[1].key",
            ],
        ),
        (
            volume(json!({"name": "a", "projected": {"sources": [
                {"secret": {"name": "s"}, "configMap": {"name": "m"}},
                {"serviceAccountToken": {}}]}})),
            &[
                "volumes[0].projected.sources[0].secret",
                "volumes[0].projected.sources[1].serviceAccountToken.path",
            ],
        ),
    ]);
}

#[test]
fn mounts_are_of_volumes_at_paths_of_their_own() {
    let mounts = |mounts: Value| json!({"volumeMounts": mounts});
    check_container(&[
        (mounts(json!([{"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"}])), &[]),
        (
            mounts(json!([{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"}])),
            &["volumeMounts[1].mountPath"],
        ),
        (mounts(json!([{"name": "x", "mountPath": "/a"}])), &["volumeMounts[0].name"]),
        (
            mounts(json!([{"name": "a", "mountPath": "/a", "subPath": "/x", "subPathExpr": "y"}])),
            &["volumeMounts[0].subPath", "volumeMounts[0].subPathExpr"],
        ),
        (
            json!({"volumeDevices": [{"name": "b", "devicePath": "/dev/b"}, {"name": "b"}]}),
            &["volumeDevices[1].devicePath"],
        ),
    ]);
}

#[test]
fn ports_are_apart() {
    check_container(&[
        (json!({"ports": [{"name": "a", "containerPort": 1}, {"containerPort": 1}]}), &[]),
        (
            json!({"ports": [{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]}),
            &["ports[1].name"],
        ),
        (
            json!({"ports": [{"name": "A", "containerPort": 70000}]}),
            &["ports[0].name", "ports[0].containerPort"],
        ),
        (
            json!({"ports": [{"containerPort": 1, "hostPort": 9},
                {"containerPort": 2, "hostPort": 9, "protocol": "UDP"},
                {"containerPort": 3, "hostPort": 9, "hostIP": "127.0.0.1"},
                {"containerPort": 4, "hostPort": 9}]}),
            &["ports[3].hostPort"],
        ),
    ]);
    let port = |port: Value| {
        json!({"hostNetwork": true,
        "containers": [container(json!({"ports": [port]}))]})
    };
    check(&[
        (port(json!({"containerPort": 80})), &[]),
        (port(json!({"containerPort": 80, "hostPort": 81})), &["containers[0].ports[0].hostPort"]),
    ]);
    let filled = pod(port(json!({"containerPort": 80})));
    assert_eq!(filled["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    let plain = pod(json!({"hostNetwork": true, "containers": [container(json!({}))]}));
    assert_eq!(plain["spec"].get("initContainers"), None);
    assert_eq!(plain["spec"]["containers"][0].get("ports"), None);
}

#[test]
fn variables_have_one_value() {
    let from = |from: Value| json!({"env": [{"name": "A", "valueFrom": from}]});
    let key = json!({"name": "m", "key": "k"});
    check_container(&[
        (from(json!({"configMapKeyRef": key})), &[]),
        (from(json!({"fieldRef": {"fieldPath": "metadata.labels['a/b']"}})), &[]),
        (from(json!({})), &["env[0].valueFrom"]),
        (from(json!({"configMapKeyRef": key, "secretKeyRef": key})), &["env[0].valueFrom"]),
        (
            json!({"env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": key}}]}),
            &["env[0].valueFrom"],
        ),
        (
            from(json!({"secretKeyRef": {"name": "m", "key": "a b"}})),
            &["env[0].valueFrom.secretKeyRef.key"],
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "spec.hostname"}})),
            &["env[0].valueFrom.fieldRef.fieldPath"],
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.gpu"}})),
            &["env[0].valueFrom.resourceFieldRef.resource"],
        ),
        (json!({"envFrom": [{"prefix": "P", "secretRef": {"name": "s"}}]}), &[]),
        (json!({"envFrom": [{}]}), &["envFrom"]),
        (
            json!({"envFrom": [{"secretRef": {"name": "s"}, "configMapRef": {}}]}),
            &["envFrom", "envFrom[0].configMapRef.name"],
        ),
    ]);
}

#[test]
fn probes_look_in_one_way() {
    let probe = |probe: Value| json!({"livenessProbe": probe});
    let exec = json!({"command": ["true"]});
    check_container(&[
        (probe(json!({"httpGet": {"port": "web"}})), &[]),
        (probe(json!({"periodSeconds": 1})), &["livenessProbe"]),
        (probe(json!({"exec": exec, "tcpSocket": {"port": 1}})), &["livenessProbe.tcpSocket"]),
        (probe(json!({"exec": {}})), &["livenessProbe.exec.command"]),
        (
            probe(json!({"httpGet": {"port": 0, "scheme": "FTP"}})),
            &["livenessProbe.httpGet.port", "livenessProbe.httpGet.scheme"],
        ),
        (
            probe(json!({"exec": exec, "failureThreshold": -1, "successThreshold": 2,
                "terminationGracePeriodSeconds": 0})),
            &[
                "livenessProbe.failureThreshold",
                "livenessProbe.successThreshold",
                "livenessProbe.terminationGracePeriodSeconds",
            ],
        ),
        (json!({"readinessProbe": {"exec": exec, "successThreshold": 2}}), &[]),
        (
            json!({"lifecycle": {"postStart": {}, "preStop": {"sleep": {"seconds": 31}}}}),
            &["lifecycle.postStart", "lifecycle.preStop.sleep"],
        ),
    ]);
    let init = |policy: Value| {
        let probe = json!({"startupProbe": {"exec": exec}, "name": "i", "restartPolicy": policy});
        json!({"initContainers": [container(probe)]})
    };
    check(&[
        (init(json!("Always")), &[]),
        (init(json!(null)), &["initContainers[0].startupProbe"]),
    ]);
}

#[test]
fn resources_are_amounts_within_limits() {
    let resources = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
    check_container(&[
        (resources(json!({"cpu": "1"}), json!({"cpu": 2, "example.com/gpu": 1})), &[]),
        (resources(json!({"cpu": "-1"}), json!({})), &["resources.requests[cpu]"]),
        (resources(json!({"cpu": 3}), json!({"cpu": 2})), &["resources.requests"]),
        (resources(json!({"disks": 1}), json!({})), &["resources.requests[disks]"]),
        (resources(json!({"example.com/gpu": 1}), json!({})), &["resources.limits"]),
        (
            resources(json!({"example.com/gpu": 1}), json!({"example.com/gpu": 2})),
            &["resources.requests"],
        ),
    ]);
}

#[test]
fn tolerations_say_what_can_be() {
    let one = |one: Value| json!({"tolerations": [one]});
    check(&[
        (one(json!({"operator": "Exists"})), &[]),
        (one(json!({"key": "a", "value": "b", "effect": "NoSchedule"})), &[]),
        (one(json!({"key": "a", "operator": "Same"})), &["tolerations[0].operator"]),
        (one(json!({"value": "b"})), &["tolerations[0].operator"]),
        (
            one(json!({"key": "a", "operator": "Exists", "value": "b"})),
            &["tolerations[0].operator"],
        ),
        (one(json!({"key": "a", "effect": "Never"})), &["tolerations[0].effect"]),
        (one(json!({"key": "a", "tolerationSeconds": 1})), &["tolerations[0].effect"]),
        (json!({"nodeSelector": {"a b": "c"}}), &["nodeSelector"]),
    ]);
}

#[test]
fn affinities_are_selectors_with_weights() {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let nodes = |expression: Value| {
        json!({"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [
            {"matchExpressions": [expression]}]}}}})
    };
    let at = format!("affinity.nodeAffinity.{required}.nodeSelectorTerms");
    let expression = format!("{at}[0].matchExpressions[0]");
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {}});
    let pods = |term: Value| json!({"affinity": {"podAntiAffinity": {required: [term]}}});
    let weighted = |weight: u64| {
        let preference = json!({"weight": weight, "podAffinityTerm": term});
        json!({"affinity": {"podAffinity": {preferred: [preference]}}})
    };
    check(&[
        (nodes(json!({"key": "a", "operator": "In", "values": ["b"]})), &[]),
        (nodes(json!({"key": "a", "operator": "In"})), &[&format!("{expression}.values")]),
        (
            nodes(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            &[&format!("{expression}.values")],
        ),
        (nodes(json!({"key": "a", "operator": "Gt"})), &[&format!("{expression}.values")]),
        (nodes(json!({"key": "a", "operator": "Like"})), &[&format!("{expression}.operator")]),
        (json!({"affinity": {"nodeAffinity": {required: {}}}}), &[&at]),
        (pods(term.clone()), &[]),
        (pods(json!({})), &[&format!("affinity.podAntiAffinity.{required}[0].topologyKey")]),
        (weighted(100), &[]),
        (weighted(101), &[&format!("affinity.podAffinity.{preferred}[0].weight")]),
    ]);
}

#[test]
fn spreads_are_positive_and_apart() {
    let one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    let with = |more: Value| {
        let mut one = one.clone();
        json_patch::merge(&mut one, &more);
        json!({"topologySpreadConstraints": [one]})
    };
    let path = "topologySpreadConstraints[0]";
    check(&[
        (with(json!({"minDomains": 2, "labelSelector": {"matchLabels": {"a": "b"}}})), &[]),
        (with(json!({"maxSkew": 0})), &[&format!("{path}.maxSkew")]),
        (with(json!({"topologyKey": null})), &[&format!("{path}.topologyKey")]),
        (with(json!({"whenUnsatisfiable": "Wait"})), &[&format!("{path}.whenUnsatisfiable")]),
        (
            with(json!({"minDomains": 1, "whenUnsatisfiable": "ScheduleAnyway"})),
            &[&format!("{path}.minDomains")],
        ),
        (
            json!({"topologySpreadConstraints": [one, one]}),
            &["topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}"],
        ),
    ]);
}

#[test]
fn the_rest_of_a_spec_is_bounded() {
    check(&[
        (json!({"activeDeadlineSeconds": 0}), &["activeDeadlineSeconds"]),
        (json!({"hostname": "A"}), &["hostname"]),
        (json!({"dnsPolicy": "None"}), &["dnsConfig"]),
        (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1"]}}), &[]),
        (json!({"dnsConfig": {"nameservers": ["one"]}}), &["dnsConfig.nameservers[0]"]),
    ]);
}

#[test]
fn deadlines_and_seconds_of_tolerations_change() {
    let toleration = |seconds: u64| json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    let old = pod(json!({"tolerations": toleration(10), "activeDeadlineSeconds": 100}));
    let refused = |field: &str, value: Value| {
        let (mut new, mut causes) = (old.clone(), Vec::new());
        new["spec"][field] = value;
        validate_update(&new, &old, &mut causes);
        causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(refused("tolerations", toleration(20)), none);
    assert_eq!(refused("tolerations", json!([])), ["spec.tolerations"]);
    assert_eq!(refused("activeDeadlineSeconds", json!(50)), none);
    for worse in [json!(101), json!(null)] {
        assert_eq!(refused("activeDeadlineSeconds", worse), ["spec.activeDeadlineSeconds"]);
    }
}

/// A pod that is nothing but `spec`.
fn bare(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
    prepare_create(&mut pod);
    default(&mut pod);
    pod
}

fn fields(pod: &Value) -> Vec<String> {
    testing::fields(validate, pod)
}

#[test]
fn defaults() {
    let pod = bare(json!({"containers": [
        {"name": "a", "image": "localhost:5000/a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
        {"name": "b", "image": "b:1", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}},
    ], "volumes": [{"name": "v"}]}));
    assert_eq!(fields(&pod), Vec::<String>::new());
    let spec = &pod["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(
        spec["containers"][0]["resources"]["requests"],
        json!({"cpu": "1", "memory": "1Gi"})
    );
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["containers"][1]["resources"]["requests"], json!({"cpu": "500m"}));
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
}

#[test]
fn users_profiles_and_kernel_parameters_are_such() {
    let context = |context: Value| json!({"securityContext": context});
    let sysctls = |names: [&str; 2]| {
        context(json!({"sysctls": names.map(|name| json!({"name": name, "value": "1"}))}))
    };
    check(&[
        (context(json!({"runAsUser": 0, "fsGroup": 2_147_483_647_u32})), &[]),
        (
            context(json!({"runAsUser": -1, "runAsGroup": 2_147_483_648_u32, "fsGroup": -1,
                "supplementalGroups": [1, -1]})),
            &[
                "securityContext.fsGroup",
                "securityContext.runAsUser",
                "securityContext.runAsGroup",
                "securityContext.supplementalGroups[1]",
            ],
        ),
        (
            context(json!({"fsGroupChangePolicy": "x", "supplementalGroupsPolicy": "x"})),
            &["securityContext.supplementalGroupsPolicy", "securityContext.fsGroupChangePolicy"],
        ),
        (sysctls(["net.ipv4.ip_forward", "net/ipv4/tcp_syncookies"]), &[]),
        (sysctls(["", "a"]), &["securityContext.sysctls[0].name"]),
        (
            sysctls(["a..b", "A"]),
            &["securityContext.sysctls[0].name", "securityContext.sysctls[1].name"],
        ),
        (sysctls(["a.b", "a.b"]), &["securityContext.sysctls[1].name"]),
        (
            json!({"shareProcessNamespace": true, "hostPID": true}),
            &["securityContext.shareProcessNamespace"],
        ),
        (context(json!({"seccompProfile": {"type": "RuntimeDefault"}})), &[]),
        (context(json!({"seccompProfile": {}})), &["securityContext.seccompProfile.type"]),
        (
            context(json!({"seccompProfile": {"type": "Localhost"}})),
            &["securityContext.seccompProfile.localhostProfile"],
        ),
        (
            context(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/a"}})),
            &["securityContext.seccompProfile.localhostProfile"],
        ),
        (
            context(json!({"appArmorProfile": {"type": "Strict", "localhostProfile": "a"}})),
            &[
                "securityContext.appArmorProfile.type",
                "securityContext.appArmorProfile.localhostProfile",
            ],
        ),
    ]);
    let context = |context: Value| json!({"securityContext": context});
    check_container(&[
        (context(json!({"runAsUser": -1})), &["securityContext.runAsUser"]),
        (context(json!({"procMount": "Unmasked"})), &["securityContext.procMount"]),
        (
            context(json!({"allowPrivilegeEscalation": false, "privileged": true,
                "capabilities": {"add": ["CAP_SYS_ADMIN"]}})),
            &["securityContext", "securityContext"],
        ),
        (context(json!({"allowPrivilegeEscalation": false, "privileged": false})), &[]),
    ]);
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let wrong = bare(json!({
        "restartPolicy": "Sometimes",
        "containers": [
            {"name": "A", "image": "x", "ports": [{"containerPort": 0}]},
            {"name": "b", "env": [{"value": "x"}]},
            {"name": "b", "image": "x", "volumeMounts": [{"name": "none", "mountPath": "/x"}],
             "resources": {"requests": {"cpu": "2", "memory": "lots"}, "limits": {"cpu": "1"}}},
        ],
    }));
    let expected = [
        "spec.restartPolicy",
        "spec.containers[0].name",
        "spec.containers[0].ports[0].containerPort",
        "spec.containers[1].image",
        "spec.containers[1].env[0].name",
        "spec.containers[2].name",
        "spec.containers[2].volumeMounts[0].name",
        "spec.containers[2].resources.requests[memory]",
        "spec.containers[2].resources.requests",
    ];
    assert_eq!(fields(&wrong), expected);
    assert_eq!(fields(&bare(json!({}))), ["spec.containers"]);
    assert_eq!(fields(&json!({"spec": 5})), ["spec"]);
}

#[test]
fn only_images_and_tolerations_change() {
    let old = bare(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let refused = |new: &Value| {
        let mut causes = Vec::new();
        validate_update(new, &old, &mut causes);
        !causes.is_empty()
    };
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "a:2".into();
    new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert!(!refused(&new));
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    assert!(refused(&new));
    for (field, value) in [("containers", json!([])), ("nodeName", json!("n1"))] {
        let mut new = old.clone();
        new["spec"][field] = value;
        assert!(refused(&new), "{field}");
    }
}
