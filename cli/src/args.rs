//! The command line, as clap reads it and `--help` explains it.

use std::ffi::OsString;
use std::path::PathBuf;

use bulkhead_host_api::{ClusterName, Credentials};
use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::output::Format;
use crate::size::Size;

const INTRODUCTION: &str = "\
Clusters of microVMs from one command.

Every node of a cluster is a virtual machine of its own, booted by Bulkhead's KVM monitor; the \
cluster speaks the Kubernetes API, so kubectl and your manifests work as they \
are. Where there is no usable KVM, an emulated host is started by itself: slower, otherwise the \
same.";

const FIRST_STEPS: &str = "\
First steps:
  bulkhead doctor                           what this machine can do, and what to mend
  bulkhead cluster create demo --nodes 3    three nodes
  bulkhead kubeconfig demo --merge          let kubectl find them
  kubectl get nodes -o wide
  bulkhead cluster delete demo              nothing is left

  bulkhead run --nodes 2 -- make e2e        a cluster for the length of one command

Environment:
  BULKHEAD_HOME   where clusters and images lie (/var/lib/bulkhead for root, else
                  ~/.local/share/bulkhead)
  BULKHEAD_HOST   'local' or 'emulated': where clusters run, instead of measuring KVM
  NO_COLOR        no colours

Exit codes: 0 done, 1 failed, 2 the command line is wrong. 'run' and 'vm run' return what they ran
returns; interrupted by signal N, 128+N.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about = INTRODUCTION, after_help = FIRST_STEPS)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check what this machine can do, and say what to mend
    #[command(after_help = "Exits with 1 if something stands in the way of a cluster.")]
    Doctor(Output),
    /// Create clusters, look at them, stop, start and delete them
    #[command(subcommand)]
    Cluster(Cluster),
    /// A cluster's nodes: each is a microVM
    #[command(subcommand)]
    Node(Node),
    /// Container images on this host, and the image that nodes boot
    #[command(subcommand)]
    Image(Image),
    /// Print a cluster's kubeconfig, or merge it into yours
    #[command(after_help = "Examples:
  bulkhead kubeconfig demo > demo.kubeconfig && export KUBECONFIG=$PWD/demo.kubeconfig
  bulkhead kubeconfig demo --merge && kubectl get pods -A")]
    Kubeconfig {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
        /// Merge it into $KUBECONFIG (its first file) or ~/.kube/config and make it current
        #[arg(long)]
        merge: bool,
    },
    /// Run a command with a cluster of its own, removed afterwards
    #[command(after_help = "KUBECONFIG is set for the command. Its exit status is returned, and \
the cluster is removed whatever becomes of it; after a 'kill -9' of bulkhead, by the next command.

Examples:
  bulkhead run -- kubectl get nodes
  bulkhead run --nodes 3 --memory 512M -- go test ./e2e/...")]
    Run(Run),
    /// The daemon that runs this machine's clusters (started by itself when needed)
    #[command(subcommand)]
    Host(Host),
    /// Single microVMs, without a cluster
    #[command(subcommand)]
    Vm(Vm),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  bulkhead completion bash > ~/.local/share/bash-completion/completions/bulkhead")]
    Completion { shell: clap_complete::Shell },
}

/// How to print a result.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Output {
    /// Print a table or JSON
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
}

/// What nodes get, where it is not as configured.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct Shape {
    /// Virtual CPUs of each node, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) cpus: Option<u8>,
    /// Memory of each node, 128M or more [default: 256M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
    /// Scratch disk of each node, allocated as it fills [default: 8G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Size>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Create a cluster and wait until its nodes are ready
    #[command(after_help = "A configuration file holds what the flags say, and flags override it:

  name: demo
  nodes: 3
  node: {cpus: 2, memory: 512M, disk: 8G}
  apiPort: 6443              # a free port unless set, as the next two
  httpPort: 8080             # where Ingresses are served
  httpsPort: 8443
  podCidr: 10.244.0.0/16     # a /24 of it for each node
  kernel: ./vmlinux          # instead of the node image's

Examples:
  bulkhead cluster create demo --nodes 3
  bulkhead cluster create --config demo.yaml --memory 1G")]
    Create(Create),
    /// List the clusters
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show a cluster and its nodes
    Status {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
        #[command(flatten)]
        output: Output,
    },
    /// Shut a cluster's nodes down; its state stays
    Stop {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
    },
    /// Start a stopped cluster, with the same nodes, addresses, disks and pods
    Start {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
    },
    /// Delete clusters with everything of them
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(value_name = "CLUSTER", required = true)]
        names: Vec<ClusterName>,
    },
    /// Save a cluster in a file, running or stopped
    #[command(
        after_help = "The file has the cluster's objects as of one moment, its certificates \
and keys, and its configuration, in mode 0600: whoever has it has the cluster. It does not have what \
lies on the nodes' disks, nor images.

Example:
  bulkhead cluster backup demo demo-$(date +%F).backup"
    )]
    Backup {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
        /// Where to; a file that is there is replaced when the backup is whole
        file: PathBuf,
    },
    /// Make a cluster of a backup and start it
    #[command(
        after_help = "It may have the name of the cluster that was saved, if that is stopped \
(then it is replaced) or deleted, or another one. Nodes keep their names and start with empty disks. \
Credentials go on to hold; clients that watch are told that their resource version is expired, and \
list anew.

Example:
  bulkhead cluster restore demo demo-2026-01-31.backup"
    )]
    Restore {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
        /// What 'bulkhead cluster backup' wrote
        file: PathBuf,
    },
    /// Encrypt a cluster's secrets with a new key
    RotateSecretsKey {
        #[arg(value_name = "CLUSTER")]
        name: ClusterName,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Create {
    /// Up to 40 of a-z, 0-9 and '-'
    #[arg(value_name = "NAME", required_unless_present = "config")]
    pub(crate) name: Option<ClusterName>,
    /// How many nodes, 1 to 250 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) nodes: Option<u32>,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Port of the Kubernetes API on this machine's loopback [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) api_port: Option<u16>,
    /// Port on this machine's loopback where Ingresses are served over HTTP [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) http_port: Option<u16>,
    /// Port on this machine's loopback where Ingresses are served over HTTPS [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) https_port: Option<u16>,
    /// Kernel that the nodes boot, an ELF vmlinux or a bzImage [default: the node image's]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM file system for that kernel, where it has EROFS, overlayfs or virtio as modules
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Read a YAML file (below); '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List a cluster's nodes
    #[command(visible_alias = "ls")]
    List {
        cluster: ClusterName,
        #[command(flatten)]
        output: Output,
    },
    /// Add nodes to a cluster
    Add {
        cluster: ClusterName,
        /// How many
        #[arg(long, value_name = "N", default_value = "1")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=250))]
        count: u32,
        #[command(flatten)]
        shape: Shape,
    },
    /// Remove nodes from a cluster, with their pods and disks
    #[command(visible_alias = "rm")]
    Remove {
        cluster: ClusterName,
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
    },
    /// Show what a node's serial console printed
    Console {
        cluster: ClusterName,
        node: String,
        /// Go on with what it prints, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build what a node boots: kernel, agent, root image (cached by content)
    Build,
    /// Load a container image: an OCI layout, or a tar of 'docker save' or 'skopeo copy'
    #[command(after_help = "Examples:
  docker save app:1 | bulkhead image load -
  bulkhead image load ./oci-layout --name localhost/app:1")]
    Load {
        /// A tar file, an OCI layout's directory, or '-' for standard input
        source: PathBuf,
        /// Call it this, instead of what the archive says
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// Pull a container image from a registry
    #[command(after_help = "Examples:
  bulkhead image pull docker.io/library/busybox:1.36
  bulkhead image pull registry.example:5000/app:1 --ca-file ca.pem --creds ci:$TOKEN")]
    Pull {
        /// [registry/]repository[:tag|@digest]
        reference: String,
        /// Speak plain HTTP to the registry (with one on loopback that is the rule)
        #[arg(long)]
        insecure: bool,
        /// Certificates, in PEM, of authorities to trust beside the system's
        #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
        ca_file: Option<PathBuf>,
        /// User of the registry, and password or token
        #[arg(long, value_name = "USER:PASSWORD", value_parser = credentials)]
        creds: Option<Credentials>,
    },
    /// List the container images
    #[command(visible_alias = "ls")]
    List(Output),
    /// Remove container images
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(value_name = "REFERENCE", required = true)]
        references: Vec<String>,
    },
}

fn credentials(text: &str) -> Result<Credentials, &'static str> {
    let (username, password) = text.split_once(':').ok_or("not of the form USER:PASSWORD")?;
    Ok(Credentials { username: username.into(), password: password.into() })
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// How many nodes, 1 to 250
    #[arg(long, value_name = "N", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) nodes: u32,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Start the daemon, in an emulated host where KVM is not usable
    Start,
    /// Stop the clusters, the daemon, and the emulated host; state stays
    Stop,
    /// Show the daemon and its machine
    Status(Output),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// Boot any Linux with its console on the terminal; Ctrl-A X leaves
    #[command(after_help = "Example:
  bulkhead vm run --kernel vmlinux --initrd initrd.gz --memory 256M --cpus 2")]
    Run(VmRun),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VmRun {
    /// An uncompressed ELF vmlinux (with a PVH note) or a bzImage
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,
    /// An initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Memory, 64M or more
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub(crate) memory: Size,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_name = "N", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) cpus: u8,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 reboot=k panic=-1")]
    pub(crate) cmdline: String,
    /// A disk image: /dev/vda, /dev/vdb …
    #[arg(long = "disk", value_name = "FILE")]
    pub(crate) disks: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_description_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let args = Args::try_parse_from(["bulkhead", "run", "--", "ls", "--nodes", "x"]).unwrap();
        let Command::Run(run) = args.command else { panic!("{args:?}") };
        assert_eq!(run.command, ["ls", "--nodes", "x"]);
        assert_eq!(run.nodes, 1);
    }

    #[test]
    fn a_password_may_hold_a_colon_and_is_not_shown() {
        let user = credentials("ci:a:b").unwrap();
        assert_eq!((user.username.as_str(), user.password.as_str()), ("ci", "a:b"));
        assert!(!format!("{user:?}").contains("a:b"));
        credentials("ci").unwrap_err();
    }
}
