//! Volumes of a pod, and where its containers mount them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{label, one_of};
use crate::names;
use crate::object::{list, text};
use crate::status::Cause;

/// What a volume can come from.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];
/// Sources, and what each must say.
const REQUIRED: &[(&str, &str)] = &[
    ("configMap", "name"),
    ("csi", "driver"),
    ("hostPath", "path"),
    ("nfs", "path"),
    ("nfs", "server"),
    ("persistentVolumeClaim", "claimName"),
    ("secret", "secretName"),
];
/// What a part of a projected volume can come from.
const PROJECTIONS: &[&str] = &[
    "clusterTrustBundle",
    "configMap",
    "downwardAPI",
    "podCertificate",
    "secret",
    "serviceAccountToken",
];
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_TYPE: &str = "may not specify more than 1 volume type";

/// The sources that a volume says, of those that there are.
fn said<'a>(volume: &Value, sources: &[&'a str]) -> Vec<&'a str> {
    sources.iter().filter(|source| !volume[**source].is_null()).copied().collect()
}

/// Fills defaults into a volume: one that says no source is an empty directory.
pub(super) fn default(volume: &mut Value) {
    if volume["name"].is_string() && said(volume, SOURCES).is_empty() {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            crate::object::set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(host_path) = volume.get_mut("hostPath").filter(|source| source.is_object())
        && host_path.get("type").is_none()
    {
        host_path["type"] = "".into();
    }
}

/// Reports what is wrong with the volumes of the spec at `path`; the result are their names.
pub(super) fn validate<'a>(
    spec: &'a Value,
    path: &str,
    causes: &mut Vec<Cause>,
) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = text(volume, "name");
        label(name, &format!("{path}.name"), causes);
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &volume["name"]));
        }
        source(volume, &path, causes);
    }
    names
}

fn source(volume: &Value, path: &str, causes: &mut Vec<Cause>) {
    match said(volume, SOURCES).as_slice() {
        [] => causes.push(Cause::missing(path, "must specify a volume type")),
        [_] => {}
        [_, more @ ..] => {
            let forbidden = |more: &&str| Cause::forbidden(format!("{path}.{more}"), ONE_TYPE);
            causes.extend(more.iter().map(forbidden));
        }
    }
    for (source, field) in REQUIRED {
        if volume[*source].is_object() && text(&volume[*source], field).is_empty() {
            causes.push(Cause::required(format!("{path}.{source}.{field}")));
        }
    }
    let host = &volume["hostPath"];
    if text(host, "path").split('/').any(|step| step == "..") {
        let why = "must not contain '..'";
        causes.push(Cause::invalid(format!("{path}.hostPath.path"), &host["path"], why));
    }
    one_of(host, &format!("{path}.hostPath"), "type", HOST_PATH_TYPES, causes);
    for source in ["configMap", "secret", "downwardAPI"] {
        files(&volume[source], &format!("{path}.{source}"), causes);
    }
    let projected = &volume["projected"];
    let path = format!("{path}.projected");
    mode(projected, "defaultMode", &path, causes);
    for (index, part) in list(projected, "sources").iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        if let [_, more @ ..] = said(part, PROJECTIONS).as_slice() {
            let forbidden = |more: &&str| Cause::forbidden(format!("{path}.{more}"), ONE_TYPE);
            causes.extend(more.iter().map(forbidden));
        }
        for source in ["configMap", "secret", "downwardAPI"] {
            files(&part[source], &format!("{path}.{source}"), causes);
        }
        let token = &part["serviceAccountToken"];
        if token.is_object() && text(token, "path").is_empty() {
            causes.push(Cause::required(format!("{path}.serviceAccountToken.path")));
        }
    }
}

/// Reports what is wrong with the files of the volume, or part of one, at `path`.
fn files(source: &Value, path: &str, causes: &mut Vec<Cause>) {
    mode(source, "defaultMode", path, causes);
    let of_fields = path.ends_with("downwardAPI");
    for (index, item) in list(source, "items").iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        if !of_fields && text(item, "key").is_empty() {
            causes.push(Cause::required(format!("{path}.key")));
        }
        match text(item, "path") {
            "" => causes.push(Cause::required(format!("{path}.path"))),
            _ => descends(item, "path", &path, causes),
        }
        mode(item, "mode", &path, causes);
    }
}

fn mode(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let mode = &object[field];
    if !mode.is_null() && mode.as_u64().is_none_or(|mode| mode > 0o777) {
        causes.push(Cause::invalid(format!("{path}.{field}"), mode, MODE));
    }
}

/// Reports a path that leaves where it begins.
pub(super) fn descends(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    let said = text(object, field);
    let mut refuse =
        |why| causes.push(Cause::invalid(format!("{path}.{field}"), &object[field], why));
    if said.starts_with('/') {
        refuse("must be a relative path");
    }
    if said.split('/').any(|step| step == "..") {
        refuse("must not contain '..'");
    }
}

/// Reports what is wrong with what the container at `path` mounts of the pod's volumes.
pub(super) fn validate_mounts(
    container: &Value,
    path: &str,
    volumes: &HashSet<&str>,
    causes: &mut Vec<Cause>,
) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        known(mount, &path, volumes, causes);
        own_place(mount, "mountPath", &path, &mut paths, causes);
        descends(mount, "subPath", &path, causes);
        descends(mount, "subPathExpr", &path, causes);
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            causes.push(Cause::invalid(format!("{path}.subPathExpr"), &mount["subPathExpr"], why));
        }
        let ways = &["Bidirectional", "HostToContainer", "None"];
        one_of(mount, &path, "mountPropagation", ways, causes);
    }
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = format!("{path}.volumeDevices[{index}]");
        known(device, &path, volumes, causes);
        own_place(device, "devicePath", &path, &mut paths, causes);
    }
}

/// Reports a place in the container that is not said, or is taken.
fn own_place<'a>(
    object: &'a Value,
    field: &str,
    path: &str,
    taken: &mut HashSet<&'a str>,
    causes: &mut Vec<Cause>,
) {
    let at = text(object, field);
    if at.is_empty() {
        causes.push(Cause::required(format!("{path}.{field}")));
    } else if !taken.insert(at) {
        causes.push(Cause::invalid(format!("{path}.{field}"), &object[field], "must be unique"));
    }
}

fn known(mount: &Value, path: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let name = text(mount, "name");
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name")));
    } else if !volumes.contains(name) {
        causes.push(Cause::not_found(format!("{path}.name"), &json!(name)));
    }
}

/// Reports a key of a ConfigMap or Secret that cannot be one.
pub(super) fn key(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    let key = text(object, "key");
    if key.is_empty() {
        causes.push(Cause::required(format!("{path}.key")));
    } else if let Some(why) = names::config_key_violation(key) {
        causes.push(Cause::invalid(format!("{path}.key"), &object["key"], why));
    }
}
