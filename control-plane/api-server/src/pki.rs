//! A cluster's certificates and the kubeconfig that carries the admin's.
//!
//! One ECDSA P-256 authority per cluster. Whoever holds `admin.key` is `system:masters`; the host
//! daemon is `system:host:HOSTNAME` in `system:hosts`, the proxy of Ingresses
//! `system:bulkhead:ingress`; the API server shows `apiserver.crt` to
//! clients and to the kubelet endpoint, which shows `kubelet.crt`. The name
//! server shows `dns.crt`.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::auth::ingress::INGRESS;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The PKI could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be made or read.
    #[error("{path}: {source}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
}

type Result<T> = std::result::Result<T, PkiError>;

/// The name server, as a user and as a group, which has a role of the same name.
pub(crate) const NAME_SERVER: &str = "system:kube-dns";

const DAY: time::Duration = time::Duration::DAY;
/// Clusters are meant to outlive a laptop's dead clock battery and years in a drawer.
const VALIDITY: time::Duration = time::Duration::days(3650);

/// Makes what is missing of the PKI in `dir`: `ca`, `apiserver`, `admin`, `host`, `kubelet`,
/// `ingress` and `dns`, each a `.crt` and a `.key`, and `sa.key`, which signs tokens. What is there is kept. `service` is
/// the address by which pods reach the API server.
///
/// # Errors
/// If a file cannot be read or written, or is not what its name says.
pub fn init(dir: &Path, cluster: &str, hostname: &str, service: Ipv4Addr) -> Result<()> {
    fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.into(), source })?;
    let ca_key = key(&dir.join("ca.key"))?;
    let ca_path = dir.join("ca.crt");
    if !ca_path.exists() {
        let mut params = params(&format!("{cluster} cluster CA"), None, &[], &ca_path)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&ca_key)
            .map_err(|source| PkiError::Certificate { path: ca_path.clone(), source })?;
        write(&ca_path, &certificate.pem(), 0o644)?;
    }
    let ca = Issuer::from_ca_cert_pem(&read(&ca_path)?, ca_key)
        .map_err(|source| PkiError::Certificate { path: ca_path, source })?;
    let server: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
    let client: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
    let both: &[ExtendedKeyUsagePurpose] =
        &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let local = ["localhost", "127.0.0.1", "::1"];
    let mut names = vec![
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    names.extend(local);
    names.push(hostname);
    let service = service.to_string();
    names.push(&service);
    let host_user = format!("system:host:{hostname}");
    key(&dir.join("sa.key"))?;
    leaf(dir, "apiserver", &ca, ("kube-apiserver", None), &names, both)?;
    leaf(dir, "admin", &ca, ("kubernetes-admin", Some("system:masters")), &[], client)?;
    leaf(dir, "host", &ca, (&host_user, Some("system:hosts")), &[], client)?;
    leaf(dir, "kubelet", &ca, ("bulkhead-kubelet", None), &local, server)?;
    leaf(dir, "ingress", &ca, (INGRESS, None), &[], client)?;
    leaf(dir, "dns", &ca, (NAME_SERVER, Some(NAME_SERVER)), &[], client)?;
    Ok(())
}

/// Makes one certificate and its key, unless they are there.
fn leaf(
    dir: &Path,
    file: &str,
    ca: &Issuer<'_, KeyPair>,
    (name, organization): (&str, Option<&str>),
    alternative_names: &[&str],
    purposes: &[ExtendedKeyUsagePurpose],
) -> Result<()> {
    let path = dir.join(format!("{file}.crt"));
    let key = key(&dir.join(format!("{file}.key")))?;
    if path.exists() {
        return Ok(());
    }
    let mut params = params(name, organization, alternative_names, &path)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes.to_vec();
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(&key, ca)
        .map_err(|source| PkiError::Certificate { path: path.clone(), source })?;
    write(&path, &certificate.pem(), 0o644)
}

fn params(
    name: &str,
    organization: Option<&str>,
    alternative_names: &[&str],
    path: &Path,
) -> Result<CertificateParams> {
    let names: Vec<String> = alternative_names.iter().map(|&name| name.into()).collect();
    let mut params = CertificateParams::new(names)
        .map_err(|source| PkiError::Certificate { path: path.into(), source })?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    // A day of slack for clocks, as in a guest whose clock is behind.
    params.not_before = time::OffsetDateTime::now_utc() - DAY;
    params.not_after = params.not_before + VALIDITY;
    Ok(params)
}

/// The key at `path`, made if it is not there.
///
/// # Errors
/// If the file cannot be read or written, or is no key.
pub(crate) fn key(path: &Path) -> Result<KeyPair> {
    let certificate_error = |source| PkiError::Certificate { path: path.into(), source };
    if path.exists() {
        return KeyPair::from_pem(&read(path)?).map_err(certificate_error);
    }
    let key = KeyPair::generate().map_err(certificate_error)?;
    write(path, &key.serialize_pem(), 0o600)?;
    Ok(key)
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.into(), source })
}

/// Writes beside and renames, so that a crash leaves the whole file or none.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let beside = path.with_extension("new");
    let written = || {
        let mut file = fs::OpenOptions::new();
        let mut file = file.write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| PkiError::File { path: path.into(), source })
}

/// The admin's kubeconfig for the cluster whose PKI lies in `dir` and whose API is at `server`,
/// with the certificates embedded.
///
/// # Errors
/// If the PKI cannot be read.
pub fn kubeconfig(dir: &Path, cluster: &str, server: &str) -> Result<String> {
    let embedded = |file: &str| Ok(BASE64.encode(read(&dir.join(file))?));
    let (ca, certificate, key) =
        (embedded("ca.crt")?, embedded("admin.crt")?, embedded("admin.key")?);
    Ok(format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    certificate-authority-data: {ca}
    server: {server}
users:
- name: {cluster}-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {cluster}-admin
current-context: {cluster}
"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn init_is_idempotent_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "demo", "box", Ipv4Addr::new(10, 96, 0, 1)).unwrap();
        let files = || {
            let mut files: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.clone(), fs::read(path).unwrap()))
                .collect();
            files.sort();
            files
        };
        let first = files();
        assert_eq!(first.len(), 15);
        fs::remove_file(dir.path().join("admin.crt")).unwrap();
        init(dir.path(), "demo", "box", Ipv4Addr::new(10, 96, 0, 1)).unwrap();
        let second = files();
        assert_eq!(second.len(), 15);
        for ((path, before), (_, after)) in first.iter().zip(&second) {
            if path.extension().is_some_and(|extension| extension == "key") {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", path.display());
            }
            if !path.ends_with("admin.crt") {
                assert_eq!(before, after, "{}", path.display());
            }
        }
    }
}
