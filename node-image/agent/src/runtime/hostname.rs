//! What a pod is called inside.

use bulkhead_agent_protocol::Pod;

/// The longest name that a kernel takes, in bytes (`__NEW_UTS_LEN`).
const MAX: usize = 64;

/// A pod's hostname: `spec.hostname`, or its name cut to a label's length; the node's for a pod with the
/// host's network.
pub(crate) fn of(pod: &Pod) -> &str {
    let spec = &pod.spec;
    let said = if spec.host_network { &spec.node_name } else { &spec.hostname };
    let said = said.as_deref().filter(|said| !said.is_empty());
    let name = said.unwrap_or(&pod.metadata.name);
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
}

/// The domain that it is in, if `spec.subdomain` puts it in one.
pub(crate) fn domain(pod: &Pod) -> Option<String> {
    let subdomain = pod.spec.subdomain.as_ref().filter(|subdomain| !subdomain.is_empty())?;
    Some(format!("{subdomain}.{}.svc.cluster.local", pod.metadata.namespace))
}

/// What its kernel calls it: its hostname, with the domain if `spec.setHostnameAsFQDN` says so.
pub(crate) fn in_kernel(pod: &Pod) -> String {
    let full = pod.spec.set_hostname_as_fqdn == Some(true) && !pod.spec.host_network;
    match domain(pod).filter(|_| full) {
        Some(domain) => format!("{}.{domain}", of(pod)),
        None => of(pod).to_owned(),
    }
}

/// Refuses a pod whose full name no kernel takes.
pub(crate) fn check(pod: &Pod) -> Result<(), String> {
    let name = in_kernel(pod);
    if name.len() > MAX {
        return Err(format!(
            "spec.setHostnameAsFQDN: FQDN {name} is too long ({MAX} characters is the max, {} \
             characters requested)",
            name.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, mut spec: Value) -> Pod {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        Pod::parse(&json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_is_called_as_it_says_or_by_its_name() {
        for (name, spec, short, full) in [
            ("web-0", json!({}), "web-0", "web-0"),
            ("web-0", json!({"hostname": "db", "subdomain": "sql"}), "db", "db"),
            (
                "web-0",
                json!({"subdomain": "sql", "setHostnameAsFQDN": true}),
                "web-0",
                "web-0.sql.shop.svc.cluster.local",
            ),
            ("web-0", json!({"setHostnameAsFQDN": true}), "web-0", "web-0"),
            (
                "p",
                json!({"hostNetwork": true, "nodeName": "c-1", "subdomain": "s", "setHostnameAsFQDN": true}),
                "c-1",
                "c-1",
            ),
        ] {
            let pod = pod(name, spec);
            assert_eq!((of(&pod), in_kernel(&pod).as_str()), (short, full));
            assert_eq!(check(&pod), Ok(()));
        }
        assert_eq!(of(&pod(&format!("{}-{}", "a".repeat(62), "b"), json!({}))), "a".repeat(62));
    }

    #[test]
    fn a_full_name_that_no_kernel_takes_is_refused() {
        let long = "a".repeat(40);
        let pod = |full| pod(&long, json!({"subdomain": "sites", "setHostnameAsFQDN": full}));
        assert_eq!(check(&pod(false)), Ok(()));
        let why = check(&pod(true)).unwrap_err();
        assert!(why.contains("spec.setHostnameAsFQDN") && why.contains("69 characters"), "{why}");
    }
}
