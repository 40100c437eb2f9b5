//! kubeconfig files: pointing one at a server, and merging one into another.
//!
//! A merge keeps all that it does not understand. It takes the lock that kubectl takes
//! (`<file>.lock`, made with `O_EXCL`), so that the two do not overwrite each other.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::home;

const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// `kubeconfig` with every cluster's server set to `server`.
pub(crate) fn with_server(kubeconfig: &str, server: &str) -> Result<String> {
    let mut config = parse(kubeconfig)?;
    let clusters = config.get_mut("clusters").and_then(Value::as_array_mut);
    let mut changed = false;
    for entry in clusters.into_iter().flatten() {
        if let Some(old) = entry.pointer_mut("/cluster/server") {
            changed |= old != server;
            *old = server.into();
        }
    }
    if changed { print(&config) } else { Ok(kubeconfig.to_owned()) }
}

/// The file that kubectl changes: the first of `$KUBECONFIG`, else `~/.kube/config`.
pub(crate) fn default_path() -> Result<PathBuf> {
    let set = std::env::var_os("KUBECONFIG").unwrap_or_default();
    match std::env::split_paths(&set).find(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(path),
        None => Ok(home::user_directory()?.join(".kube/config")),
    }
}

/// Puts `kubeconfig`'s cluster, user and context into the file at `path` and makes it current.
/// Returns the context's name.
pub(crate) fn merge(path: &Path, kubeconfig: &str) -> Result<String> {
    let added = parse(kubeconfig)?;
    change(path, |config| {
        for list in LISTS {
            for entry in added.get(list).and_then(Value::as_array).into_iter().flatten() {
                remove_named(config, list, name_of(entry));
                entries(config, list)?.push(entry.clone());
            }
        }
        let context = added.get("current-context").cloned().unwrap_or_default();
        for (key, value) in [("apiVersion", "v1"), ("kind", "Config")] {
            config.entry(key).or_insert_with(|| value.into());
        }
        config.insert("current-context".into(), context.clone());
        Ok(context.as_str().unwrap_or_default().to_owned())
    })
}

/// Takes `kubeconfig`'s entries out of the file at `path` again, where they still mean the same
/// cluster. Returns whether there were any.
pub(crate) fn unmerge(path: &Path, kubeconfig: &str) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let merged = parse(kubeconfig)?;
    let ca = |config: &Map<String, Value>| -> Vec<Value> {
        let clusters = config.get("clusters").and_then(Value::as_array);
        clusters.into_iter().flatten().map(authority).collect()
    };
    let present = parse(&read(path)?)?;
    let theirs = ca(&present);
    if !ca(&merged).iter().any(|ours| !ours.is_null() && theirs.contains(ours)) {
        return Ok(false);
    }
    change(path, |config| {
        for list in LISTS {
            for entry in merged.get(list).and_then(Value::as_array).into_iter().flatten() {
                remove_named(config, list, name_of(entry));
            }
        }
        if config.get("current-context") == merged.get("current-context") {
            config.insert("current-context".into(), "".into());
        }
        Ok(true)
    })
}

/// What tells one cluster from another of the same name: its certificate authority.
fn authority(cluster: &Value) -> Value {
    cluster.pointer("/cluster/certificate-authority-data").cloned().unwrap_or_default()
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name").and_then(Value::as_str)
}

fn remove_named(config: &mut Map<String, Value>, list: &str, name: Option<&str>) {
    if let Some(Value::Array(entries)) = config.get_mut(list) {
        entries.retain(|entry| name_of(entry) != name);
    }
}

fn entries<'a>(config: &'a mut Map<String, Value>, list: &str) -> Result<&'a mut Vec<Value>> {
    let slot = config.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().with_context(|| format!("its '{list}' is not a list"))
}

fn change<T>(path: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> Result<T>) -> Result<T> {
    // What is changed is the file, not a link to it.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    home::create(directory)?;
    let _lock = Lock::take(path)?;
    let text = if path.exists() { read(path)? } else { String::new() };
    let about = || format!("kubeconfig {}", path.display());
    let mut config = parse(&text).with_context(about)?;
    let result = edit(&mut config).with_context(about)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .map_err(|error| home::refused(directory, error))?;
    file.write_all(print(&config)?.as_bytes()).map_err(|error| home::refused(path, error))?;
    file.persist(path).map_err(|error| home::refused(path, error.error))?;
    Ok(result)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("kubeconfig {}", path.display()))
}

fn parse(text: &str) -> Result<Map<String, Value>> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options(text, options)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => bail!("is not a YAML mapping"),
    }
}

fn print(config: &Map<String, Value>) -> Result<String> {
    Ok(serde_saphyr::to_string(config)?)
}

struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let started = Instant::now();
        loop {
            let made =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    if started.elapsed() > LOCK_PATIENCE {
                        bail!(
                            "{} is held by another program; if none runs, remove it",
                            path.display()
                        );
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(home::refused(&path, error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Ours, made with O_EXCL; gone already only if somebody removed it by hand.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, port: u16, ca: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    \
             server: https://127.0.0.1:{port}\n    certificate-authority-data: {ca}\nusers:\n\
             - name: {name}\n  user: {{client-key-data: c2VjcmV0}}\ncontexts:\n- name: {name}\n  \
             context: {{cluster: {name}, user: {name}}}\ncurrent-context: {name}\n"
        )
    }

    fn load(path: &Path) -> Value {
        Value::Object(parse(&read(path).unwrap()).unwrap())
    }

    #[test]
    fn the_server_is_replaced_and_all_else_kept() {
        let text = made("a", 1, "AAAA");
        assert_eq!(with_server(&text, "https://127.0.0.1:1").unwrap(), text);
        let changed = parse(&with_server(&text, "https://127.0.0.1:2").unwrap()).unwrap();
        let mut expected = parse(&text).unwrap();
        expected["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:2".into();
        assert_eq!(changed, expected);
    }

    #[test]
    fn a_merge_keeps_what_was_there_and_an_unmerge_takes_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config");
        merge(&path, &made("old", 1, "OLD0")).unwrap();
        assert_eq!(merge(&path, &made("a", 2, "AAAA")).unwrap(), "a");
        merge(&path, &made("a", 3, "BBBB")).unwrap();
        let config = load(&path);
        assert_eq!(config["clusters"].as_array().unwrap().len(), 2, "{config}");
        assert_eq!(config["clusters"][0]["name"], "old");
        assert_eq!(config["clusters"][1]["cluster"]["server"], "https://127.0.0.1:3");
        assert_eq!(config["current-context"], "a");

        assert!(!unmerge(&path, &made("a", 3, "CCCC")).unwrap(), "another cluster of that name");
        assert!(unmerge(&path, &made("a", 3, "BBBB")).unwrap());
        let config = load(&path);
        assert_eq!(config["contexts"].as_array().unwrap().len(), 1, "{config}");
        assert_eq!(config["current-context"], "");
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for text in ["- a\n- b\n", "clusters: 7\n", "a: [\n"] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", merge(&path, &made("a", 1, "AAAA")).unwrap_err());
            assert!(error.contains("config"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
