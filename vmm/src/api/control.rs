//! What may be done to a machine when.

use std::sync::Arc;
use std::time::Instant;

use bulkhead_vmm_api::{Metrics, RangeConfig, VmConfig, VmInfo, VmState};

use crate::config::{self, ConfigError, Descriptors, Machine};
use crate::event_loop::EventHandler;
use crate::exit::{Exit, ExitSink};
use crate::vm::{self, AddRangeError, BuildError, Vm};

/// Why a request was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not in this state.
    #[error("cannot {action}: the machine is {state:?}")]
    State {
        /// What was asked for.
        action: &'static str,
        /// What the machine is doing.
        state: VmState,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// There is no such disk.
    #[error("there is no disk {0}")]
    NoDisk(String),
    /// The disk refuses the range.
    #[error(transparent)]
    Range(#[from] AddRangeError),
}

/// The machine, if there is one, and its state.
pub struct Control {
    start: Instant,
    exit: Arc<ExitSink>,
    vm: Option<Vm>,
    state: VmState,
}

impl Control {
    /// Without a machine. Boot time counts from `start`.
    #[must_use]
    pub fn new(start: Instant, exit: Arc<ExitSink>) -> Self {
        Self { start, exit, vm: None, state: VmState::Empty }
    }

    /// Builds the machine. The handlers belong on the event loop.
    ///
    /// # Errors
    /// When there is one already, or it cannot be built.
    pub fn configure(
        &mut self,
        config: VmConfig,
        files: &mut dyn Descriptors,
    ) -> Result<Vec<Box<dyn EventHandler>>, ControlError> {
        self.machine("configure", &[VmState::Empty])?;
        let machine = Machine::open(config, files)?;
        let (vm, handlers) = vm::build(machine, self.start, self.exit.clone())?;
        self.vm = Some(vm);
        self.state = VmState::Configured;
        Ok(handlers)
    }

    /// Lets a configured machine run.
    ///
    /// # Errors
    /// In any other state.
    pub fn start(&mut self) -> Result<(), ControlError> {
        self.run("start", VmState::Configured)
    }

    /// Lets a paused machine run.
    ///
    /// # Errors
    /// In any other state.
    pub fn resume(&mut self) -> Result<(), ControlError> {
        self.run("resume", VmState::Paused)
    }

    fn run(&mut self, action: &'static str, from: VmState) -> Result<(), ControlError> {
        if let Some(vm) = self.machine(action, &[from])? {
            vm.resume();
            self.state = VmState::Running;
        }
        Ok(())
    }

    /// Stops a running machine's vCPUs.
    ///
    /// # Errors
    /// In any other state.
    pub fn pause(&mut self) -> Result<(), ControlError> {
        if let Some(vm) = self.machine("pause", &[VmState::Running])? {
            vm.pause();
            self.state = VmState::Paused;
        }
        Ok(())
    }

    /// Ends the monitor.
    pub fn shutdown(&self) {
        self.exit.report(Exit::Shutdown);
    }

    /// Adds a range to a disk.
    ///
    /// # Errors
    /// When there is no machine or no such disk, or the range is not possible.
    pub fn add_range(
        &mut self,
        id: &str,
        range: &RangeConfig,
        files: &mut dyn Descriptors,
    ) -> Result<(), ControlError> {
        let with_disks = [VmState::Configured, VmState::Running, VmState::Paused];
        let vm = self.machine("add a range", &with_disks)?;
        let disk = vm.and_then(|vm| Some((vm, vm.disk_read_only(id)?)));
        let (vm, read_only) = disk.ok_or_else(|| ControlError::NoDisk(id.to_owned()))?;
        Ok(vm.add_range(id, config::open_range(range, id, read_only, files)?)?)
    }

    /// What the machine is doing.
    #[must_use]
    pub fn info(&self) -> VmInfo {
        let vm = self.vm.as_ref();
        VmInfo {
            state: self.state,
            pid: std::process::id(),
            cpus: vm.map_or(0, Vm::cpus),
            memory: vm.map_or(0, Vm::memory),
            boot_milliseconds: vm.and_then(Vm::boot_time).map(|time| time.as_secs_f64() * 1e3),
        }
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.vm.as_ref().map(Vm::metrics).unwrap_or_default()
    }

    fn machine(
        &self,
        action: &'static str,
        allowed: &[VmState],
    ) -> Result<Option<&Vm>, ControlError> {
        if !allowed.contains(&self.state) {
            return Err(ControlError::State { action, state: self.state });
        }
        Ok(self.vm.as_ref())
    }
}
