//! What a pod has on the node besides its containers: the files that they share, and volumes.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{
    Quantity,
    pod::{EmptyDir, Volume, VolumeMount},
};
use rustix::mount::{MountFlags, mount};

use super::{PodContext, hostname, rootfs, volumes};

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
        fs::write(directory.join("hosts"), hosts(pod))?;
        fs::write(directory.join("hostname"), format!("{}\n", hostname::in_kernel(&pod.pod)))?;
        fs::write(directory.join("resolv.conf"), &pod.data.borrow().resolv_conf)?;
        let shm = directory.join("shm");
        if !shm.exists() {
            fs::create_dir_all(&shm)?;
            tmpfs(&shm, c"mode=1777,size=65536k")?;
        }
        Ok(())
    }

    /// A volume's directory, unless it is there, and the files of one that holds data.
    pub(super) fn make_volume(&self, pod: &PodContext, volume: &Volume) -> io::Result<()> {
        let path = self.volume_path(pod.uid(), volume);
        let context = pod.pod.spec.security_context.as_ref();
        let group = context.and_then(|context| context.fs_group);
        let Some(EmptyDir { medium, size_limit }) = &volume.empty_dir else {
            let data = pod.data.borrow();
            let files = data.volumes.get(&volume.name).map_or(&[][..], Vec::as_slice);
            return volumes::write(&path, files, group);
        };
        let memory = medium.as_deref() == Some("Memory");
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
        if let Some(group) = group {
            chown(&path, None, Some(group))?;
            mode |= 0o2000;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
    }

    /// Where it is: other objects' data never reaches the disk.
    pub(super) fn volume_path(&self, uid: &str, volume: &Volume) -> PathBuf {
        let memory =
            volume.empty_dir.as_ref().is_none_or(|d| d.medium.as_deref() == Some("Memory"));
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
        Ok((source, mount.mount_path.clone(), mount.read_only || volume.holds_data()))
    }
}

/// A pod's `/etc/hosts`, as a kubelet writes it.
fn hosts(pod: &PodContext) -> String {
    let spec = &pod.pod.spec;
    let hostname = hostname::of(&pod.pod);
    let whose = if spec.host_network { " (host network)" } else { "" };
    let mut hosts = format!(
        "# Kubernetes-managed hosts file{whose}.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let ip = pod.ip.unwrap_or(Ipv4Addr::LOCALHOST);
    match hostname::domain(&pod.pod) {
        Some(domain) => hosts += &format!("{ip}\t{hostname}.{domain}\t{hostname}\n"),
        None => hosts += &format!("{ip}\t{hostname}\n"),
    }
    if !spec.host_aliases.is_empty() {
        hosts += "\n# Entries added by HostAliases.\n";
    }
    for alias in &spec.host_aliases {
        hosts += &format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t"));
    }
    hosts
}

fn tmpfs(at: &Path, options: &std::ffi::CStr) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", at, "tmpfs", flags, Some(options))?)
}
