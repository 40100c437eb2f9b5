//! A cluster's configuration file, and flags laid over it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::{ClusterConfig, ClusterName, NodeShape};
use serde::Deserialize;

use crate::args::{Create, Shape};
use crate::input;
use crate::size::Size;

/// No configuration is near this long, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a `--config` file may say; the same as [`ClusterConfig`], all of it optional, and sizes as
/// people write them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    name: Option<String>,
    nodes: Option<u32>,
    #[serde(default)]
    node: FileShape,
    api_port: Option<u16>,
    http_port: Option<u16>,
    https_port: Option<u16>,
    pod_cidr: Option<String>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileShape {
    cpus: Option<u8>,
    memory: Option<Size>,
    disk: Option<Size>,
}

/// The configuration that a create asks for: its file, overridden by its flags.
pub(crate) fn of_create(create: &Create) -> Result<ClusterConfig> {
    let file = create.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let name = match (&create.name, file.name) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => {
            name.parse::<ClusterName>().with_context(|| format!("name {name:?}"))?
        }
        (None, None) => bail!("the cluster has no name; give one: 'cluster create NAME'"),
    };
    let FileShape { cpus, memory, disk } = file.node;
    let shape = laid_over(&Shape { cpus, memory, disk }, NodeShape::default());
    let mut config =
        of_shape(&name, create.nodes.or(file.nodes).unwrap_or(1), laid_over(&create.shape, shape))?;
    config.api_port = create.api_port.or(file.api_port);
    config.http_port = create.http_port.or(file.http_port);
    config.https_port = create.https_port.or(file.https_port);
    if let Some(pod_cidr) = file.pod_cidr {
        config.pod_cidr = pod_cidr;
    }
    let named = |what, flag: &Option<PathBuf>, file: Option<PathBuf>| {
        flag.clone().or(file).map(|path| input::file(what, &path)).transpose()
    };
    config.kernel = named("kernel", &create.kernel, file.kernel)?;
    config.initrd = named("initrd", &create.initrd, file.initrd)?;
    if config.initrd.is_some() && config.kernel.is_none() {
        bail!("an initrd goes with a kernel; name that as well: --kernel FILE");
    }
    Ok(config)
}

/// A configuration with defaults for all else.
pub(crate) fn of_shape(name: &ClusterName, nodes: u32, node: NodeShape) -> Result<ClusterConfig> {
    // The defaults are the API's to know.
    let mut config: ClusterConfig =
        serde_json::from_value(serde_json::json!({"name": name.as_str()}))?;
    config.nodes = nodes;
    config.node = node;
    Ok(config)
}

/// `shape` with what the flags say.
pub(crate) fn laid_over(flags: &Shape, shape: NodeShape) -> NodeShape {
    NodeShape {
        cpus: flags.cpus.unwrap_or(shape.cpus),
        memory: flags.memory.map_or(shape.memory, Size::bytes),
        disk: flags.disk.map_or(shape.disk, Size::bytes),
    }
}

fn read(path: &Path) -> Result<File> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
    };
    read.with_context(|| format!("configuration {}", path.display()))?;
    parse(&text).with_context(|| format!("configuration {}", path.display()))
}

fn parse(text: &str) -> Result<File> {
    if text.trim().is_empty() {
        bail!("is empty; 'bulkhead cluster create --help' shows one");
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
        let text = error.to_string();
        // The parser's own place, behind the message, would say it twice.
        let message = text.split_once(" at line ").map_or(&*text, |(message, _)| message);
        anyhow::anyhow!("{place}{message}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(config: &str, name: Option<&str>, shape: Shape) -> Result<ClusterConfig> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        of_create(&Create {
            name: name.map(|name| name.parse().unwrap()),
            nodes: None,
            shape,
            api_port: None,
            http_port: None,
            https_port: Some(8443),
            kernel: None,
            initrd: None,
            config: Some(file.path().to_owned()),
        })
    }

    #[test]
    fn a_file_says_it_all_and_flags_override_it() {
        let text = "name: a\nnodes: 3\nnode:\n  cpus: 2\n  memory: 512M\napiPort: 6443\n\
                    httpPort: 8080\nhttpsPort: 1\n";
        let config = create(text, None, Shape::default()).unwrap();
        assert_eq!((config.name.as_str(), config.nodes, config.api_port), ("a", 3, Some(6443)));
        assert_eq!((config.http_port, config.https_port), (Some(8080), Some(8443)));
        assert_eq!((config.node.cpus, config.node.memory), (2, 512 << 20));
        assert_eq!(config.node.disk, NodeShape::default().disk);

        let flags = Shape { memory: Some("1G".parse().unwrap()), ..Shape::default() };
        let config = create(text, Some("b"), flags).unwrap();
        assert_eq!((config.name.as_str(), config.node.memory, config.node.cpus), ("b", 1 << 30, 2));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, parts) in [
            ("name: a\nnodes: 1\nnodez: 2\n", &["line 3", "nodez"][..]),
            ("name: a\nnode:\n  cpus: 1\n  memmory: 1G\n", &["line 4", "memmory"]),
            ("name: a\nnode:\n  memory: 12Q\n", &["line 3", "12Q"]),
            ("name: a\nnodes: many\n", &["line 2"]),
            ("name: [a\n", &["line"]),
            ("name: A_B\n", &["A_B"]),
            ("nodes: 1\n", &["no name"]),
            ("name: a\nkernel: /no/vmlinux\n", &["kernel /no/vmlinux", "No such file"]),
            ("name: a\ninitrd: /dev/null\n", &["--kernel"]),
            ("", &["empty"]),
        ] {
            let error = format!("{:#}", create(text, None, Shape::default()).unwrap_err());
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
