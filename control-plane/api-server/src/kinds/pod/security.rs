//! What a pod and its containers say of users, privileges, profiles and kernel parameters.
//! <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{one_of, volumes};
use crate::object::{list, text};
use crate::status::Cause;

const ID: &str = "must be between 0 and 2147483647, inclusive";
/// The longest name of a kernel parameter, in bytes.
const SYSCTL_NAME: usize = 253;
const NO_SYSCTL: &str = "must have at most 253 characters and match regex \
    ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// Reports what is wrong with the security context of the pod's spec at `path`.
pub(super) fn validate_pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let context = &spec["securityContext"];
    let path = format!("{path}.securityContext");
    ids(context, &path, &["fsGroup", "runAsUser", "runAsGroup"], causes);
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(group, || format!("{path}.supplementalGroups[{index}]"), causes);
    }
    one_of(context, &path, "supplementalGroupsPolicy", &["Merge", "Strict"], causes);
    one_of(context, &path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], causes);
    one_of(context, &path, "seLinuxChangePolicy", &["MountOption", "Recursive"], causes);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.push(Cause::invalid(format!("{path}.shareProcessNamespace"), &json!(true), why));
    }
    sysctls(context, &path, causes);
    profiles(context, &path, causes);
}

/// Reports what is wrong with the security context of the container at `path`, of a pod of this spec.
pub(super) fn validate_container(
    container: &Value,
    path: &str,
    spec: &Value,
    causes: &mut Vec<Cause>,
) {
    let context = &container["securityContext"];
    let path = format!("{path}.securityContext");
    ids(context, &path, &["runAsUser", "runAsGroup"], causes);
    one_of(context, &path, "procMount", &["Default", "Unmasked"], causes);
    if context["procMount"] == "Unmasked" && spec["hostUsers"] != false {
        let why = "`hostUsers` must be false to use `Unmasked`";
        causes.push(Cause::invalid(format!("{path}.procMount"), &context["procMount"], why));
    }
    profiles(context, &path, causes);
    if context["allowPrivilegeEscalation"] == false {
        let mut refuse = |what: &str| {
            let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            causes.push(Cause::invalid(&path, context, &why));
        };
        if context["privileged"] == true {
            refuse("`privileged` to true");
        }
        if list(context, "capabilities.add").iter().any(|one| one == "CAP_SYS_ADMIN") {
            refuse("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

/// Reports numbers of users and groups that none can have.
fn ids(context: &Value, path: &str, fields: &[&str], causes: &mut Vec<Cause>) {
    for field in fields {
        id(&context[*field], || format!("{path}.{field}"), causes);
    }
}

fn id(value: &Value, at: impl Fn() -> String, causes: &mut Vec<Cause>) {
    if !value.is_null() && !value.as_i64().is_some_and(|id| (0..=i64::from(i32::MAX)).contains(&id))
    {
        causes.push(Cause::invalid(at(), value, ID));
    }
}

fn sysctls(context: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let at = format!("{path}.sysctls[{index}].name");
        match text(sysctl, "name") {
            "" => causes.push(Cause::required(at)),
            name if !is_sysctl(name) => {
                causes.push(Cause::invalid(at, &sysctl["name"], NO_SYSCTL));
            }
            name if !names.insert(name) => causes.push(Cause::duplicate(at, &sysctl["name"])),
            _ => {}
        }
    }
}

/// Whether `name` can be a kernel parameter's: segments joined by dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_segment = |segment: &str| {
        segment.bytes().all(|byte| end(byte) || b"-_".contains(&byte))
            && segment.bytes().next().is_some_and(end)
            && segment.bytes().last().is_some_and(end)
    };
    name.len() <= SYSCTL_NAME && name.split(['.', '/']).all(is_segment)
}

/// Reports what is wrong with a context's profiles, of seccomp and of AppArmor.
fn profiles(context: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = &context[field];
        if !profile.is_object() {
            continue;
        }
        let path = format!("{path}.{field}");
        if text(profile, "type").is_empty() {
            let why = format!("type is required when {field} is set");
            causes.push(Cause::missing(format!("{path}.type"), &why));
        } else {
            one_of(profile, &path, "type", PROFILES, causes);
        }
        let local = &profile["localhostProfile"];
        let at = format!("{path}.localhostProfile");
        if profile["type"] != "Localhost" {
            if !local.is_null() {
                let why = format!("can only be set when {name} type is Localhost");
                causes.push(Cause::invalid(at, local, &why));
            }
        } else if text(profile, "localhostProfile").trim().is_empty() {
            let why = format!("must be set when {name} type is Localhost");
            causes.push(Cause::missing(at, &why));
        } else if field == "seccompProfile" {
            // A file below the node's profiles; AppArmor's are names.
            volumes::descends(profile, "localhostProfile", &path, causes);
        }
    }
}
