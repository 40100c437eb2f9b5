//! The [`Runtime`] of a node: namespaces, overlays, cgroups, and containers by the helper.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use bulkhead_agent_protocol::{
    Quantity,
    downward::Surroundings,
    pod::{Container, Volume},
};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Exit, ExitFuture, Instance, PodContext, Runtime, RuntimeError, action,
    bpf::DeviceProgram,
    capabilities,
    cgroup::Cgroup,
    children::{Child, Children},
    failed,
    helper::{HelperRequest, Helpers, Verb},
    hostname,
    pod_files::Directories,
    rootfs,
    sandbox::{Network, Sandbox},
    seccomp,
    spec::{self, SpecInput},
    usage, users,
};
use crate::{
    images::Images,
    logs::{LogState, LogWriter, remove_older},
    node::identity::Identity,
    pods::{
        action::Action,
        env,
        resources::{self, CgroupLimits, QosClass},
    },
    streams::{Console, ContainerIo, ProcessIo, collect, null},
};

/// The longest termination message, in bytes, as Kubernetes has it.
const MAX_MESSAGE: usize = 4096;

struct Record {
    /// The pod's uid and the container's name.
    container: (String, String),
    pid: i32,
    cgroup: Cgroup,
    stop_signal: Signal,
    layers: Vec<u32>,
    bundle: PathBuf,
    writable: PathBuf,
    process: Value,
    /// Whether its processes run under `RuntimeDefault`.
    filtered: bool,
}

impl Record {
    /// What a helper is told of the filter of `process`, and what it finds in its file.
    fn as_helped(&self, process: &Value) -> (Option<Value>, Value) {
        match self.filtered {
            true => (Some(process["capabilities"].clone()), seccomp::raised(process)),
            false => (None, process.clone()),
        }
    }
}

/// Runs containers on this node.
pub(crate) struct NodeRuntime {
    pub(crate) directories: Directories,
    pub(crate) images: Rc<Images>,
    pub(crate) children: Rc<Children>,
    pub(crate) helpers: Rc<Helpers>,
    pub(crate) identity: Rc<Identity>,
    containers: RefCell<BTreeMap<String, Record>>,
    /// Made for the first container that needs it.
    devices: OnceCell<DeviceProgram>,
}

impl NodeRuntime {
    pub(crate) fn new(
        directories: Directories,
        images: Rc<Images>,
        children: Rc<Children>,
        identity: Rc<Identity>,
    ) -> Self {
        let helpers = Rc::new(Helpers::new(Rc::clone(&children)));
        Self {
            directories,
            images,
            children,
            helpers,
            identity,
            containers: RefCell::default(),
            devices: OnceCell::new(),
        }
    }

    fn sandbox(&self, pod: &PodContext) -> Sandbox {
        let sysctls = pod.pod.spec.security_context.as_ref().map(|context| context.sysctls.clone());
        let network = if pod.pod.spec.host_network { Network::Node } else { Network::Own(pod.ip) };
        let ip = pod.ip.map_or(0, u32::from);
        Sandbox {
            directory: self.directories.pod_run(pod.uid()).join("ns"),
            hostname: hostname::in_kernel(&pod.pod),
            sysctls: sysctls.unwrap_or_default(),
            network,
            interface: format!("veth{ip:08x}"),
            mtu: self.identity.mtu(),
        }
    }

    /// Connects to a TCP port of a pod's own loopback.
    ///
    /// # Errors
    /// Why not: nothing may listen there.
    pub(crate) async fn connect(&self, pod: &PodContext, port: u16) -> io::Result<TcpStream> {
        self.sandbox(pod).connect(port).await
    }

    /// Runs a process in a running container.
    ///
    /// # Errors
    /// Why it could not be started.
    pub(crate) async fn exec(
        &self,
        id: &str,
        command: &[String],
        stdin: bool,
        terminal: bool,
    ) -> Result<(ProcessIo, Child), RuntimeError> {
        let (mut process, filtered, cgroup_gone) = {
            let containers = self.containers.borrow();
            let record = containers
                .get(id)
                .ok_or_else(|| RuntimeError::Start(String::from("the container has ended")))?;
            let (filtered, process) = record.as_helped(&record.process);
            (process, filtered, !record.cgroup.path().exists())
        };
        if cgroup_gone {
            return Err(RuntimeError::Start(String::from("the container has ended")));
        }
        process["args"] = json!(command);
        process["terminal"] = json!(terminal);
        if terminal && let Some(env) = process["env"].as_array_mut() {
            env.push(json!("TERM=xterm"));
        }
        let directory = self.directories.run.join("exec").join(random_id());
        fs::create_dir_all(&directory).map_err(failed("make the exec's directory"))?;
        let file = directory.join("process.json");
        let result = async {
            fs::write(&file, process.to_string()).map_err(failed("write the process"))?;
            let verb = Verb::Exec(file.clone());
            self.spawn(verb, id, filtered, &directory, stdin, terminal).await
        };
        let result = result.await;
        let _ = fs::remove_dir_all(&directory);
        result
    }

    async fn spawn(
        &self,
        verb: Verb,
        id: &str,
        filtered: Option<Value>,
        directory: &Path,
        stdin: bool,
        terminal: bool,
    ) -> Result<(ProcessIo, Child), RuntimeError> {
        let console = if terminal {
            let socket = directory.join("console");
            Some(Console::bind(socket).map_err(failed("make the console socket"))?)
        } else {
            None
        };
        let request = HelperRequest {
            verb,
            id: id.to_owned(),
            state: self.directories.run.join("state"),
            console: console.as_ref().map(|console| console.path().to_owned()),
            filtered,
        };
        let birth = self.children.expect();
        let (io, pid) = match console {
            Some(console) => {
                let none = || null().map_err(failed("open /dev/null"));
                let started = self.helpers.run(&request, [none()?, none()?, none()?]).await;
                let pid = started.map_err(RuntimeError::Start)?;
                (console.receive(stdin).map_err(failed("receive the terminal"))?, pid)
            }
            None => {
                let (io, ends) = ProcessIo::pipes(stdin).map_err(failed("make pipes"))?;
                let started = self.helpers.run(&request, ends).await;
                (io, started.map_err(RuntimeError::Start)?)
            }
        };
        let child = self.children.adopt(pid).map_err(failed("follow the process"))?;
        drop(birth);
        Ok((io, child))
    }

    /// The PID namespace of a pod's running container.
    fn processes_of(&self, uid: &str, name: &str) -> Result<PathBuf, RuntimeError> {
        let containers = self.containers.borrow();
        let mut of_pod = containers.values().filter(|record| record.container.0 == uid);
        let target = of_pod.find(|record| record.container.1 == name);
        let pid = target.map(|record| record.pid).ok_or_else(|| {
            RuntimeError::Config(format!("the target container {name} does not run"))
        })?;
        Ok(PathBuf::from(format!("/proc/{pid}/ns/pid")))
    }

    /// CPU time in nanoseconds and working set in bytes of a running container.
    pub(crate) fn usage(&self, id: &str) -> Option<(u64, u64)> {
        Some(self.containers.borrow().get(id)?.cgroup.usage())
    }

    /// Everything before the helper: cgroup, overlay, specification.
    fn bundle(
        &self,
        pod: &PodContext,
        container: &Container,
        id: &str,
    ) -> Result<Record, RuntimeError> {
        let images = pod.images.borrow();
        let image = images.get(&container.name).ok_or_else(|| {
            RuntimeError::Config(format!("no image was sent for container {}", container.name))
        })?;
        let bundle = self.directories.run.join("bundles").join(id);
        let writable = self.directories.pod_data(pod.uid()).join("containers").join(id);
        let mut record = Record {
            container: (pod.uid().to_owned(), container.name.clone()),
            pid: 0,
            cgroup: Cgroup::container(pod.uid(), id),
            stop_signal: stop_signal(image.config.stop_signal.as_deref())?,
            layers: image.layers.clone(),
            bundle,
            writable,
            process: Value::Null,
            filtered: false,
        };
        let layers = self.images.acquire(&record.layers).map_err(failed("mount the image"))?;
        match self.fill_bundle(pod, container, image, &layers, &mut record) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.discard(&record);
                Err(error)
            }
        }
    }

    fn fill_bundle(
        &self,
        pod: &PodContext,
        container: &Container,
        image: &bulkhead_agent_protocol::ContainerImage,
        layers: &[PathBuf],
        record: &mut Record,
    ) -> Result<(), RuntimeError> {
        let uid = pod.uid();
        fs::create_dir_all(&record.bundle).map_err(failed("make the bundle"))?;
        let root = rootfs::mount_overlay(layers, &record.writable)
            .map_err(failed("mount the root file system"))?;
        let read = |path| rootfs::read(&root, path).map_err(failed(format!("read {path}")));
        let pod_security = pod.pod.spec.security_context.clone().unwrap_or_default();
        let context = container.security_context.clone().unwrap_or_default();
        let user = users::resolve(
            image.config.user.as_deref().unwrap_or_default(),
            &read("/etc/passwd")?,
            &read("/etc/group")?,
            &pod_security,
            &context,
        )
        .map_err(RuntimeError::Config)?;

        let sent = pod.data.borrow().environment.get(&container.name).cloned().unwrap_or_default();
        if let Some(problem) = sent.problem {
            return Err(RuntimeError::Config(problem));
        }
        let around = Surroundings {
            pod_ip: pod.ip,
            node_ip: self.identity.ip(),
            cpus: Identity::cpus(),
            memory: self.identity.allocatable_memory(),
        };
        let hostname = hostname::in_kernel(&pod.pod);
        let mut env =
            env::environment(&pod.pod, container, &image.config, &sent, &hostname, around);
        let args = env::command_line(container, &image.config, &sent, &env);
        if args.is_empty() {
            return Err(RuntimeError::Config(String::from(
                "no command: neither the image nor the pod names one",
            )));
        }
        if !env.iter().any(|pair| pair.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
        let cwd = given(&container.working_dir)
            .or_else(|| given(&image.config.working_dir))
            .unwrap_or_else(|| String::from("/"));
        rootfs::make_directory(&root, Path::new(&cwd))
            .map_err(failed(format!("make the working directory {cwd}")))?;

        let run = self.directories.pod_run(uid);
        let message = record.bundle.join("termination-log");
        fs::write(&message, "").map_err(failed("make the termination log"))?;
        fs::set_permissions(&message, fs::Permissions::from_mode(0o666))
            .map_err(failed("make the termination log"))?;
        let message_path = given(&container.termination_message_path)
            .unwrap_or_else(|| String::from("/dev/termination-log"));
        let read_only = context.read_only_root_filesystem == Some(true);
        let mut binds = vec![
            (run.join("hosts"), String::from("/etc/hosts"), read_only),
            (run.join("hostname"), String::from("/etc/hostname"), read_only),
            (run.join("resolv.conf"), String::from("/etc/resolv.conf"), read_only),
            (run.join("shm"), String::from("/dev/shm"), false),
            (message, message_path, false),
        ];
        for mount in &container.volume_mounts {
            // A volume's mount replaces the agent's own of that path.
            binds.retain(|(_, to, _)| *to != mount.mount_path);
            let bind = self.directories.bind_of(pod, mount);
            binds.push(bind.map_err(|error| {
                RuntimeError::Config(format!("volume {}: {error}", mount.name))
            })?);
        }

        let cgroup = &record.cgroup;
        cgroup
            .create_leaf(CgroupLimits::of_container(container))
            .map_err(failed("make the container's cgroup"))?;
        if context.privileged != Some(true) {
            self.restrict_devices(cgroup).map_err(failed("restrict devices"))?;
        }
        let sandbox = self.sandbox(pod);
        let mut namespaces = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")]
            .map(|(k, f)| (k, sandbox.namespace(f)))
            .to_vec();
        if let Some(target) = given(&container.target_container_name) {
            namespaces.push(("pid", self.processes_of(uid, &target)?));
        }
        let granted = capabilities::of(&context);
        let below_root = cgroup.below_root();
        let input = SpecInput {
            args: &args,
            env: &env,
            cwd: &cwd,
            user: &user,
            terminal: container.tty,
            rootfs: &root,
            context: &context,
            capabilities: &granted,
            oom_score_adj: resources::oom_score_adj(
                QosClass::of(&pod.pod),
                container,
                self.identity.memory(),
            ),
            cgroup: &below_root,
            namespaces: &namespaces,
            binds: &binds,
        };
        record.process = spec::process(&input);
        record.filtered = seccomp::is_wanted(&pod.pod, &context);
        let (_, process) = record.as_helped(&record.process);
        let specification = spec::container(&input, process).to_string();
        fs::write(record.bundle.join("config.json"), specification)
            .map_err(failed("write the specification"))
    }

    fn restrict_devices(&self, cgroup: &Cgroup) -> io::Result<()> {
        let program = match self.devices.get() {
            Some(program) => program,
            None => {
                let program = DeviceProgram::load()?;
                self.devices.get_or_init(|| program)
            }
        };
        program.attach(cgroup.path())
    }

    /// Takes down what [`NodeRuntime::bundle`] made.
    fn discard(&self, record: &Record) {
        rootfs::unmount_overlay(&record.writable);
        self.images.release(&record.layers);
        let _ = record.cgroup.kill();
        let _ = record.cgroup.remove();
        let _ = fs::remove_dir_all(&record.bundle);
        if let Some(id) = record.bundle.file_name() {
            let _ = fs::remove_dir_all(self.directories.run.join("state").join(id));
        }
    }
}

impl Runtime for NodeRuntime {
    async fn prepare_pod(&self, pod: &PodContext) -> Result<(), RuntimeError> {
        let cgroup = Cgroup::pod(pod.uid());
        cgroup.create_inner().map_err(failed("make the pod's cgroup"))?;
        cgroup.limit(CgroupLimits::of_pod(&pod.pod)).map_err(failed("limit the pod's cgroup"))?;
        self.directories.write_pod_files(pod).map_err(failed("write the pod's files"))?;
        for volume in &pod.pod.spec.volumes {
            self.directories
                .make_volume(pod, volume)
                .map_err(failed(format!("volume {}", volume.name)))?;
        }
        let sandbox = self.sandbox(pod);
        sandbox.remove();
        sandbox.create().await.map_err(failed("make the pod's namespaces"))
    }

    fn refresh_volume(&self, pod: &PodContext, volume: &Volume) -> Result<(), RuntimeError> {
        self.directories.make_volume(pod, volume).map_err(failed("write its files"))
    }

    async fn start(
        &self,
        pod: &PodContext,
        container: &Container,
        attempt: u32,
    ) -> Result<Instance, RuntimeError> {
        let id = random_id();
        let mut record = self.bundle(pod, container, &id)?;
        let logs = self.directories.pod_data(pod.uid()).join("logs").join(&container.name);
        fs::create_dir_all(&logs).map_err(failed("make the log's directory"))?;
        remove_older(&logs, attempt);
        let verb = Verb::Run(record.bundle.clone());
        let bundle = record.bundle.clone();
        let (filtered, _) = record.as_helped(&record.process);
        let spawned =
            self.spawn(verb, &id, filtered, &bundle, container.stdin, container.tty).await;
        let (io, child) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                self.discard(&record);
                return Err(error);
            }
        };
        record.pid = child.pid();
        let cgroup = record.cgroup.clone();
        self.containers.borrow_mut().insert(id.clone(), record);

        let log = Rc::new(LogState::new(logs.join(format!("{attempt}.log"))));
        let stdin = io.stdin.clone();
        let container_io = Rc::new(ContainerIo::new(stdin, container.stdin_once, container.tty));
        let output = tokio::task::spawn_local(keep_log(
            ProcessIo { stdin: None, ..io },
            Rc::clone(&log),
            Rc::clone(&container_io),
        ));
        let fallback =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let message = bundle.join("termination-log");
        let ended_log = Rc::clone(&log);
        let exit: ExitFuture = Box::pin(async move {
            let code = child.wait().await.unwrap_or(255);
            let oom_killed = cgroup.oom_killed();
            // What else runs in the container goes with its first process, and closes the pipes.
            let _ = cgroup.kill();
            let last = output.await.unwrap_or_default();
            ended_log.end();
            let message = read_message(&message)
                .or_else(|| (fallback && code != 0 && !last.is_empty()).then_some(last));
            Exit { code, oom_killed, message }
        });
        Ok(Instance { id, exit, io: Some(container_io), log: Some(log) })
    }

    async fn overfull(&self, pod: &PodContext) -> Option<String> {
        for volume in &pod.pod.spec.volumes {
            let on_disk =
                volume.empty_dir.as_ref().filter(|d| d.medium.as_deref() != Some("Memory"));
            let limit = on_disk.and_then(|empty_dir| empty_dir.size_limit.as_ref());
            let Some(limit) = limit.and_then(|limit| Quantity::from_json(limit).ok()) else {
                continue;
            };
            let path = self.directories.volume_path(pod.uid(), volume);
            let (done, result) = tokio::sync::oneshot::channel();
            // A thread of its own: there may be many files.
            let counting = std::thread::Builder::new()
                .name(String::from("usage"))
                .stack_size(128 << 10)
                .spawn(move || done.send(usage::exceeds(&path, limit.value())));
            if counting.is_ok() && result.await == Ok(true) {
                let name = &volume.name;
                return Some(format!(
                    "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
                ));
            }
        }
        None
    }

    async fn act(&self, pod: &PodContext, id: &str, action: &Action) -> Result<(), String> {
        action::run(self, pod, id, action).await
    }

    fn terminate(&self, id: &str) {
        if let Some(record) = self.containers.borrow().get(id)
            && let Some(pid) = Pid::from_raw(record.pid)
        {
            // The child is not reaped before its exit is handled: the pid is still its own.
            let _ = kill_process(pid, record.stop_signal);
        }
    }

    fn kill(&self, id: &str) {
        if let Some(record) = self.containers.borrow().get(id) {
            let _ = record.cgroup.kill();
        }
    }

    async fn remove(&self, id: &str) {
        let Some(record) = self.containers.borrow_mut().remove(id) else { return };
        // Killed processes leave their cgroup a moment later.
        for _ in 0..100 {
            match record.cgroup.remove() {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
                _ => break,
            }
        }
        self.discard(&record);
    }

    async fn release_pod(&self, pod: &PodContext) {
        self.sandbox(pod).remove();
        let _ = Cgroup::pod(pod.uid()).remove();
        let run = self.directories.pod_run(pod.uid());
        let _ = unmount(run.join("shm"), UnmountFlags::DETACH);
        for volume in &pod.pod.spec.volumes {
            let path = self.directories.volume_path(pod.uid(), volume);
            if path.starts_with(&run) {
                let _ = unmount(&path, UnmountFlags::DETACH);
            }
        }
        let _ = fs::remove_dir_all(run);
    }

    async fn forget_pod(&self, uid: &str) {
        // The uid of a pod that is not known comes from the host unchecked.
        if Path::new(uid).components().count() == 1 && uid != ".." && uid != "." {
            let _ = fs::remove_dir_all(self.directories.pod_data(uid));
        }
    }
}

/// Logs what a container prints until it prints no more; returns its last words.
async fn keep_log(io: ProcessIo, log: Rc<LogState>, container: Rc<ContainerIo>) -> String {
    let writer = match LogWriter::new(&log) {
        Ok(writer) => Some(RefCell::new(writer)),
        Err(error) => {
            eprintln!("agent: a container's log cannot be written: {error}");
            None
        }
    };
    let tail = RefCell::new(Vec::new());
    let sink = |stream, bytes: &[u8]| {
        if let Some(writer) = &writer {
            // A full disk loses log lines, never the container.
            let _ = writer.borrow_mut().write(stream, bytes);
        }
        container.publish(stream, bytes);
        let mut tail = tail.borrow_mut();
        tail.extend_from_slice(bytes);
        let excess = tail.len().saturating_sub(MAX_MESSAGE / 2);
        tail.drain(..excess);
    };
    // A stream that cannot be read has ended.
    let _ = collect(&io, &sink).await;
    if let Some(writer) = &writer {
        let _ = writer.borrow_mut().finish();
    }
    String::from_utf8_lossy(&tail.borrow()).into_owned()
}

fn read_message(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_MESSAGE as u64).read_to_end(&mut bytes).ok()?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// 128 random bits, in hexadecimal.
fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    // The pool is ready: the kernel fills it before the agent starts, or the call waits.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image's STOPSIGNAL: a name, with or without `SIG`, or a number.
fn stop_signal(name: Option<&str>) -> Result<Signal, RuntimeError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(Signal::TERM) };
    let number = name.parse::<i32>().ok();
    let named = || {
        let name = name.to_ascii_uppercase();
        let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
        full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    number
        .or_else(named)
        .and_then(Signal::from_named_raw)
        .ok_or_else(|| RuntimeError::Config(format!("the image's STOPSIGNAL {name} is no signal")))
}
