//! Keeps the removal of layers apart from their arrival, across processes.

use std::{
    fs::{File, OpenOptions},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// A hold on `DIR/lock`, given up when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Lock {
    /// For writing layers. Waits while layers are being removed.
    pub(crate) fn shared(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let file = open(&path)?;
        flock(&file, FlockOperation::LockShared)
            .map_err(|errno| Error::io("cannot lock", path)(errno.into()))?;
        Ok(Self(file))
    }

    /// For removing layers: `None` while anyone writes some.
    pub(crate) fn exclusive(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join("lock");
        let file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("cannot lock", path)(errno.into())),
        }
    }

    /// For removing layers, once nobody writes any.
    pub(crate) fn exclusive_in_turn(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let file = open(&path)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| Error::io("cannot lock", path)(errno.into()))?;
        Ok(Self(file))
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::io("cannot open", path))
}
