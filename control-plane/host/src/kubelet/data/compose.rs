//! From objects to what a pod's agent is sent: files of volumes, values of variables.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::downward::{self, Surroundings};
use bulkhead_agent_protocol::pod::{Container, EnvVarSource, Volume};
use bulkhead_agent_protocol::stream::Data;
use bulkhead_agent_protocol::volume::{DownwardApiFile, KeyToPath, VolumeProjection};
use bulkhead_agent_protocol::{ContainerEnvironment, Pod, PodData, VolumeFile};

use super::{Keys, Kind, Objects, Tokens};

/// The mode of a file if its volume names none.
const DEFAULT_MODE: u32 = 0o644;

/// Why a pod cannot be given what it asks for, yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::kubelet) enum Problem {
    /// A volume cannot be filled; worded as a kubelet does.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
    Volume { volume: String, why: String },
    /// The API does not answer, or not this host.
    #[error("{0}")]
    Unreadable(String),
}

/// All that a pod is sent, but for its resolver.
pub(super) fn compose(
    pod: &Pod,
    objects: &Objects,
    tokens: &Tokens,
    around: Surroundings,
) -> Result<PodData, Problem> {
    let mut data = PodData::default();
    let filler = Filler { pod, objects, tokens, around };
    for volume in pod.spec.volumes.iter().filter(|volume| volume.holds_data()) {
        let files = filler
            .volume(volume)
            .map_err(|why| Problem::Volume { volume: volume.name.clone(), why })?;
        // The last of several sources for one path wins.
        let by_path: BTreeMap<String, VolumeFile> =
            files.into_iter().map(|file| (file.path.clone(), file)).collect();
        data.volumes.insert(volume.name.clone(), by_path.into_values().collect());
    }
    for container in pod.spec.all_containers() {
        let environment = filler.environment(container);
        if environment != ContainerEnvironment::default() {
            data.environment.insert(container.name.clone(), environment);
        }
    }
    Ok(data)
}

struct Filler<'a> {
    pod: &'a Pod,
    objects: &'a Objects,
    tokens: &'a Tokens,
    around: Surroundings,
}

impl Filler<'_> {
    fn volume(&self, volume: &Volume) -> Result<Vec<VolumeFile>, String> {
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            return self.object(
                Kind::ConfigMap,
                &source.name,
                &source.items,
                mode,
                source.optional,
            );
        }
        if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let name = &source.secret_name;
            return self.object(Kind::Secret, name, &source.items, mode, source.optional);
        }
        if let Some(source) = &volume.downward_api {
            return self.fields(&source.items, source.default_mode.unwrap_or(DEFAULT_MODE));
        }
        let mut files = Vec::new();
        if let Some(projected) = &volume.projected {
            let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
            for source in &projected.sources {
                files.extend(self.projection(source, mode)?);
            }
        }
        Ok(files)
    }

    fn projection(&self, source: &VolumeProjection, mode: u32) -> Result<Vec<VolumeFile>, String> {
        match source {
            VolumeProjection::ConfigMap(object) => {
                self.object(Kind::ConfigMap, &object.name, &object.items, mode, object.optional)
            }
            VolumeProjection::Secret(object) => {
                self.object(Kind::Secret, &object.name, &object.items, mode, object.optional)
            }
            VolumeProjection::DownwardApi(fields) => self.fields(&fields.items, mode),
            VolumeProjection::ServiceAccountToken(token) => {
                let text = self.tokens.get(token).ok_or("there is no token")?;
                // Who else may read it than its group is nobody, where there is a group.
                let grouped = self.pod.spec.security_context.as_ref();
                let grouped = grouped.is_some_and(|context| context.fs_group.is_some());
                let mode = if grouped { 0o600 } else { mode };
                Ok(vec![file(&token.path, mode, text.as_bytes())])
            }
        }
    }

    /// Keys of an object: all of them, or those named.
    fn object(
        &self,
        kind: Kind,
        name: &str,
        items: &[KeyToPath],
        mode: u32,
        optional: Option<bool>,
    ) -> Result<Vec<VolumeFile>, String> {
        let optional = optional == Some(true);
        let Some(keys) = self.get(kind, name) else {
            return if optional { Ok(Vec::new()) } else { Err(not_found(kind, name)) };
        };
        if items.is_empty() {
            return Ok(keys.iter().map(|(key, value)| file(key, mode, value)).collect());
        }
        let mut files = Vec::new();
        for item in items {
            match keys.get(&item.key) {
                Some(value) => files.push(file(&item.path, item.mode.unwrap_or(mode), value)),
                None if optional => {}
                None => {
                    let kind = if kind == Kind::ConfigMap { "config" } else { "secret" };
                    return Err(format!("references non-existent {kind} key: {}", item.key));
                }
            }
        }
        Ok(files)
    }

    fn fields(&self, items: &[DownwardApiFile], mode: u32) -> Result<Vec<VolumeFile>, String> {
        let mut files = Vec::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::file(self.pod, &field.field_path, self.around)
                    .ok_or_else(|| format!("fieldPath {:?} is not supported", field.field_path))?,
                (None, Some(selector)) => {
                    let name = selector.container_name.as_deref().unwrap_or_default();
                    let spec = &self.pod.spec;
                    let mut all = spec.containers.iter().chain(&spec.init_containers);
                    let container = all
                        .find(|container| container.name == name)
                        .ok_or_else(|| format!("container {name} not found"))?;
                    downward::resource(container, selector, self.around)?
                }
                (None, None) => return Err(format!("{} has no source", item.path)),
            };
            files.push(file(&item.path, item.mode.unwrap_or(mode), text.as_bytes()));
        }
        Ok(files)
    }

    fn environment(&self, container: &Container) -> ContainerEnvironment {
        let mut environment = ContainerEnvironment::default();
        let filled = self.variables(container, &mut environment);
        environment.problem = filled.err();
        environment
    }

    fn variables(
        &self,
        container: &Container,
        environment: &mut ContainerEnvironment,
    ) -> Result<(), String> {
        for source in &container.env_from {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            for (kind, reference) in
                [(Kind::ConfigMap, &source.config_map_ref), (Kind::Secret, &source.secret_ref)]
            {
                let Some(reference) = reference else { continue };
                match self.get(kind, &reference.name) {
                    Some(keys) => {
                        environment.from.extend(keys.iter().filter_map(|(key, value)| {
                            Some((format!("{prefix}{key}"), text(value)?))
                        }))
                    }
                    None if reference.optional == Some(true) => {}
                    None => return Err(not_found(kind, &reference.name)),
                }
            }
        }
        for (index, variable) in container.env.iter().enumerate() {
            let (kind, selector) = match &variable.value_from {
                Some(EnvVarSource::ConfigMapKeyRef(key)) => (Kind::ConfigMap, key),
                Some(EnvVarSource::SecretKeyRef(key)) => (Kind::Secret, key),
                Some(EnvVarSource::FieldRef(_) | EnvVarSource::ResourceFieldRef(_)) | None => {
                    continue;
                }
            };
            let optional = selector.optional == Some(true);
            let keys = match self.get(kind, &selector.name) {
                Some(keys) => keys,
                None if optional => continue,
                None => return Err(not_found(kind, &selector.name)),
            };
            match keys.get(&selector.key) {
                Some(value) => {
                    let value = text(value).ok_or_else(|| {
                        format!("key {} of {} is no text", selector.key, selector.name)
                    })?;
                    environment.values.insert(index, value);
                }
                None if optional => {}
                None => {
                    return Err(format!(
                        "couldn't find key {} in {} {}/{}",
                        selector.key,
                        kind.name(),
                        self.pod.metadata.namespace,
                        selector.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn get(&self, kind: Kind, name: &str) -> Option<&Keys> {
        self.objects.get(&(kind, name.to_owned()))
    }
}

fn file(path: &str, mode: u32, data: &[u8]) -> VolumeFile {
    VolumeFile { path: path.to_owned(), mode, data: Data(data.to_vec()) }
}

fn not_found(kind: Kind, name: &str) -> String {
    format!("{} {name:?} not found", kind.singular())
}

/// A variable's value: no NUL can be in it.
fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.to_vec()).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubelet::data::keys;

    fn objects() -> Objects {
        let settings = json!({"data": {"COLOR": "red", "app.conf": "a=1"}});
        let login = json!({"data": {"password": "aHVudGVyMg=="}});
        Objects::from([
            ((Kind::ConfigMap, "settings".into()), keys(Kind::ConfigMap, &settings)),
            ((Kind::Secret, "login".into()), keys(Kind::Secret, &login)),
        ])
    }

    fn composed(volumes: Value, container: Value) -> Result<PodData, Problem> {
        let mut spec = json!({
            "containers": [{"name": "c", "image": "i"}],
            "volumes": volumes,
        });
        for (key, value) in container.as_object().unwrap() {
            spec["containers"][0][key] = value.clone();
        }
        let pod = Pod::parse(&json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
            "spec": spec,
        }));
        compose(&pod.unwrap(), &objects(), &Tokens::default(), Surroundings::default())
    }

    fn files(volume: Value) -> Result<Vec<(String, u32, String)>, String> {
        let data = composed(json!([volume]), json!({})).map_err(|problem| problem.to_string())?;
        let files = data.volumes["v"].iter().map(|file| {
            let text = String::from_utf8_lossy(&file.data.0).into_owned();
            (file.path.clone(), file.mode, text)
        });
        Ok(files.collect())
    }

    #[test]
    fn keys_become_files() {
        let all = files(json!({"name": "v", "configMap": {"name": "settings"}})).unwrap();
        let expected = [("COLOR", "red"), ("app.conf", "a=1")]
            .map(|(path, text)| (path.to_owned(), 0o644, text.to_owned()));
        assert_eq!(all, expected);
        let some = json!({"name": "v", "secret": {"secretName": "login", "defaultMode": 0o400,
            "items": [{"key": "password", "path": "db/password"}]}});
        assert_eq!(files(some).unwrap(), [("db/password".into(), 0o400, "hunter2".into())]);
        let projected = json!({"name": "v", "projected": {"sources": [
            {"configMap": {"name": "settings", "items": [
                {"key": "COLOR", "path": "color", "mode": 0o600}]}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}});
        let expected =
            [("color".into(), 0o600, "red".into()), ("labels".into(), 0o644, "app=\"x\"".into())];
        assert_eq!(files(projected).unwrap(), expected);
    }

    #[test]
    fn what_is_not_there_is_named_unless_it_is_optional() {
        let missing = |optional: bool| {
            files(json!({"name": "v", "configMap": {"name": "none", "optional": optional}}))
        };
        assert_eq!(missing(true).unwrap(), []);
        let message = missing(false).unwrap_err();
        let expected = r#"MountVolume.SetUp failed for volume "v" : configmap "none" not found"#;
        assert_eq!(message, expected);
        let key = json!({"name": "v", "secret": {"secretName": "login",
            "items": [{"key": "user", "path": "u"}]}});
        assert!(files(key).unwrap_err().ends_with("references non-existent secret key: user"));
        let token = json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}]}});
        assert!(files(token).unwrap_err().contains("no token"));
    }

    #[test]
    fn variables_are_taken_from_whole_objects_and_from_keys() {
        let environment = |container: Value| {
            let data = composed(json!([]), container).unwrap();
            data.environment.get("c").cloned().unwrap_or_default()
        };
        let got = environment(json!({
            "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "settings"}},
                {"secretRef": {"name": "none", "optional": true}}],
            "env": [{"name": "A", "value": "x"},
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                {"name": "Q", "valueFrom": {"secretKeyRef": {
                    "name": "login", "key": "none", "optional": true}}}],
        }));
        let from = [("CFG_COLOR", "red"), ("CFG_app.conf", "a=1")];
        assert_eq!(got.from, from.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(got.values, BTreeMap::from([(1, String::from("hunter2"))]));
        assert_eq!(got.problem, None);
        assert_eq!(environment(json!({})), ContainerEnvironment::default());

        let problem = |key: Value| {
            let variable = json!({"name": "A", "valueFrom": {"configMapKeyRef": key}});
            environment(json!({"env": [variable]})).problem.unwrap()
        };
        assert_eq!(problem(json!({"name": "no", "key": "k"})), r#"configmap "no" not found"#);
        assert_eq!(
            problem(json!({"name": "settings", "key": "k"})),
            "couldn't find key k in ConfigMap ns/settings"
        );
    }
}
