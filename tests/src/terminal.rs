//! A terminal (a pty) with a command on it, as a user sits before one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::until;

/// What leads the session: it outlives the command, since a terminal whose leader has gone is reset.
/// Its trap keeps Ctrl-C, which comes to it as well, and is not the command's.
const LEADER: &str = "trap : INT; \
    sh -c 'echo \"pid $$\"; exec \"$0\" \"$@\"' \"$@\"; echo \"ended with $?\"; exec sleep 1000";

/// A terminal whose foreground job is one command. The command is hung up when this is dropped.
pub struct Terminal {
    /// The user's side.
    keyboard: File,
    /// The command's side, kept open so that its modes can be looked at.
    line: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    leader: Child,
}

impl Terminal {
    /// Runs `command` on a new terminal, in a session of its own.
    ///
    /// # Panics
    /// If there is no pty or the command cannot be started.
    #[must_use]
    pub fn run(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let line = ioctl_tiocgptpeer(&keyboard, flags).unwrap();
        let keyboard = File::from(keyboard);
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "sh", "-c", LEADER, "sh"]);
        leader.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        let stream = || line.try_clone().unwrap();
        let leader = leader.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (screen, mut from) = (Arc::clone(&shown), keyboard.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end of the terminal.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
                screen.extend_from_slice(&buffer[..count]);
            }
        });
        Self { keyboard, line, shown, leader }
    }

    /// All that was shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until the screen has shown `text`.
    ///
    /// # Panics
    /// If it does not within a minute and a half.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        until(&format!("{text:?} on the terminal"), Duration::from_secs(90), || {
            let screen = self.screen();
            if screen.contains(text) { Ok(()) } else { Err(screen) }
        });
    }

    /// Types `keys`.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn types(&self, keys: &str) {
        (&self.keyboard).write_all(keys.as_bytes()).unwrap();
    }

    /// Whether each key goes to the command at once and without an echo.
    ///
    /// # Panics
    /// If the terminal is gone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The command's process id.
    ///
    /// # Panics
    /// If it is not started within a minute and a half.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.said("pid ")
    }

    /// Waits for the command's end; its exit status as a shell has it.
    ///
    /// # Panics
    /// If it does not end within a minute and a half.
    #[must_use]
    #[track_caller]
    pub fn ended(&self) -> u32 {
        self.said("ended with ")
    }

    /// The number that the leader said after `words`.
    #[track_caller]
    fn said(&self, words: &str) -> u32 {
        until(&format!("{words:?} on the terminal"), Duration::from_secs(90), || {
            let screen = self.screen();
            let said = screen.rsplit_once(words).and_then(|(_, rest)| rest.split_once('\r'));
            said.and_then(|(number, _)| number.parse().ok()).ok_or(screen)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}
