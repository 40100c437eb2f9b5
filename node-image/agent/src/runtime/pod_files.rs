//! What a pod has on the node besides its containers: the files that they share, and volumes.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{
    Quantity,
    pod::{EmptyDir, Volume, VolumeMount},
};
use rustix::mount::{MountFlags, mount};

use super::{PodContext, rootfs};

/// Directories of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    /// Gone with the boot: pins, sockets, bundles.
    pub(crate) run: PathBuf,
    /// On the scratch disk: writable layers, logs, volumes.
    pub(crate) data: PathBuf,
}

impl Directories {
    pub(super) fn pod_run(&self, uid: &str) -> PathBuf {
        self.run.join("pods").join(uid)
    }

    pub(super) fn pod_data(&self, uid: &str) -> PathBuf {
        self.data.join("pods").join(uid)
    }

    /// Files of the pod that every container sees.
    pub(super) fn write_pod_files(&self, pod: &PodContext) -> io::Result<()> {
        let directory = self.pod_run(pod.uid());
        fs::create_dir_all(&directory)?;
        let hostname = pod.hostname();
        let mut hosts = String::from(
            "# Written by the node's agent.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
        );
        let spec = &pod.pod.spec;
        if let Some(ip) = pod.ip {
            let namespace = &pod.pod.metadata.namespace;
            let subdomain = spec.subdomain.as_ref().filter(|subdomain| !subdomain.is_empty());
            let qualified = subdomain
                .map(|subdomain| format!("{hostname}.{subdomain}.{namespace}.svc.cluster.local\t"));
            hosts += &format!("{ip}\t{}{hostname}\n", qualified.unwrap_or_default());
        } else {
            hosts += &format!("127.0.0.1\t{hostname}\n");
        }
        for alias in &spec.host_aliases {
            hosts += &format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t"));
        }
        fs::write(directory.join("hosts"), hosts)?;
        fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
        // A cluster has no name server yet.
        fs::write(directory.join("resolv.conf"), "")?;
        let shm = directory.join("shm");
        if !shm.exists() {
            fs::create_dir_all(&shm)?;
            tmpfs(&shm, c"mode=1777,size=65536k")?;
        }
        Ok(())
    }

    /// A volume's directory, unless it is there.
    pub(super) fn make_volume(&self, pod: &PodContext, volume: &Volume) -> io::Result<()> {
        let Some(EmptyDir { medium, size_limit }) = &volume.empty_dir else {
            return Err(io::Error::other(format!("volume {} has no source", volume.name)));
        };
        let memory = medium.as_deref() == Some("Memory");
        let path = self.volume_path(pod.uid(), volume);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&path)?;
        if memory {
            let size = size_limit.as_ref().and_then(|limit| Quantity::from_json(limit).ok());
            let size = size.map_or_else(String::new, |size| format!(",size={}", size.value()));
            tmpfs(&path, &std::ffi::CString::new(format!("mode=0777{size}"))?)?;
        }
        let mut mode = 0o777;
        let context = pod.pod.spec.security_context.as_ref();
        if let Some(group) = context.and_then(|context| context.fs_group) {
            chown(&path, None, Some(group))?;
            mode |= 0o2000;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    }

    pub(super) fn volume_path(&self, uid: &str, volume: &Volume) -> PathBuf {
        let memory =
            volume.empty_dir.as_ref().is_some_and(|d| d.medium.as_deref() == Some("Memory"));
        let base = if memory { self.pod_run(uid) } else { self.pod_data(uid) };
        base.join("volumes").join(&volume.name)
    }

    /// What a container's mount binds: source, target, whether it is read-only.
    pub(super) fn bind_of(
        &self,
        pod: &PodContext,
        mount: &VolumeMount,
    ) -> io::Result<(PathBuf, String, bool)> {
        let volume = pod.pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| io::Error::other(format!("no volume {}", mount.name)))?;
        let mut source = self.volume_path(pod.uid(), volume);
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            source = rootfs::resolve_sub_path(&source, Path::new(sub_path))?;
        }
        Ok((source, mount.mount_path.clone(), mount.read_only))
    }
}

fn tmpfs(at: &Path, options: &std::ffi::CStr) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", at, "tmpfs", flags, Some(options))?)
}
