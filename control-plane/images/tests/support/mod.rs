//! Images made for tests, and a registry to pull them from.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_images::Digest;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// A tar stream of files: path and content.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        // Not through the crate's own setters, which refuse hostile paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A directory in which an OCI layout is put together, right or wrong.
pub(crate) struct Layout {
    pub(crate) dir: tempfile::TempDir,
}

/// One layer of an image: how it is stored, its type, the tar in it.
pub(crate) struct TestLayer {
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) diff_id: Digest,
}

impl TestLayer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { diff_id: Digest::of(&tar), blob: tar, media_type: TAR }
    }

    pub(crate) fn gzip(tar: &[u8]) -> Self {
        Self { diff_id: Digest::of(tar), blob: gzip(tar), media_type: GZIP }
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        let blob = zstd::encode_all(tar, 0).unwrap();
        Self { diff_id: Digest::of(tar), blob, media_type: ZSTD }
    }
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir }
    }

    /// A layout of one image.
    pub(crate) fn of(name: &str, layers: &[TestLayer]) -> Self {
        let layout = Self::new();
        let manifest = layout.image(layers, "amd64");
        layout.index(name, manifest);
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.blob_path(digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// Adds an image, and gives its manifest's descriptor.
    pub(crate) fn image(&self, layers: &[TestLayer], architecture: &str) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": { "a": "b" } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let layers: Vec<_> =
            layers.iter().map(|layer| self.blob(layer.media_type, &layer.blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    /// Adds an index over images of several architectures, and gives its descriptor.
    pub(crate) fn multi(&self, images: &[(&str, Value)]) -> Value {
        let manifests: Vec<_> = images
            .iter()
            .map(|(architecture, descriptor)| {
                let mut descriptor = descriptor.clone();
                descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.blob(INDEX, index.to_string().as_bytes())
    }

    pub(crate) fn index(&self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// Runs a program that must be installed and succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("cannot run {program} ({error}): install it with `apt-get install {program}`")
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
}

/// A real registry on a loopback port.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    _reserved: TcpSocket,
}

/// A port of loopback at which nobody listens but who is told of it: while the socket lives, nobody
/// else gets the port by chance. Who listens there must say, as Go does, that it may be shared.
pub(crate) fn reserved_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Who may use a registry that lets in nobody else: user and password.
pub(crate) const USER: (&str, &str) = ("tester", "secret");
/// The same as a line of htpasswd's, with bcrypt.
const HTPASSWD: &str = "tester:$2b$04$mvgmkjgk3VYzDgfbEO4iwuk8HzkNTCP311O9vddbrAYBPPxSz9izi\n";

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "")
    }

    /// One that speaks TLS with a certificate of its own, `certificate.pem` in the directory given,
    /// and lets in [`USER`] alone.
    pub(crate) fn start_secured() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let request = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n\
                       [name]\nCN = registry\n\
                       [more]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n";
        fs::write(at("request"), request).unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let (config, key_file, certificate) = (at("request"), at("key.pem"), at("certificate.pem"));
        let files = ["-config", &config, "-keyout", &key_file, "-out", &certificate];
        run("openssl", &[&["req", "-x509", "-days", "2"], &key[..], &files[..]].concat());
        fs::write(at("htpasswd"), HTPASSWD).unwrap();
        let more = format!(
            "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: test\n    \
             path: {}\n",
            at("certificate.pem"),
            at("key.pem"),
            at("htpasswd")
        );
        Self::start_in(dir, &more)
    }

    /// The certificate of a registry that was started secured, in PEM.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("certificate.pem")).unwrap()
    }

    fn start_in(dir: tempfile::TempDir, more: &str) -> Self {
        let (reserved, port) = reserved_port();
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{more}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run docker-registry ({error}): \
                     install it with `apt-get install docker-registry`"
                )
            });
        let registry = Self { child, port, dir, _reserved: reserved };
        let deadline = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn name(&self, repository: &str) -> String {
        format!("127.0.0.1:{}/{repository}", self.port)
    }

    /// Copies the image of a layout here, index and all.
    pub(crate) fn push(&self, layout: &Layout, repository: &str) -> String {
        let name = self.name(repository);
        let credentials = format!("--dest-creds={}:{}", USER.0, USER.1);
        let from = format!("oci:{}", layout.path().display());
        let to = format!("docker://{name}");
        run(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--all",
                "--dest-tls-verify=false",
                &credentials,
                &from,
                &to,
            ],
        );
        name
    }

    /// Where the registry keeps a blob.
    pub(crate) fn stored(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Debian's statically linked busybox, as a layer.
pub(crate) fn busybox() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").unwrap_or_else(|error| {
        panic!("/bin/busybox: {error}: install it with `apt-get install busybox-static`")
    });
    tar(&[("bin/busybox", &busybox), ("bin/sh", b"")])
}
