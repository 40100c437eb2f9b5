//! The thread that owns the writing connection.
//!
//! It takes every write that waits, applies them in one transaction, and answers them after the
//! commit has been synced. While it syncs, the next group gathers: the more clients write at
//! once, the fewer syncs each write costs.

use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use crate::ring::Ring;
use crate::{Event, Result, Revision, StoreError, Write, log};

/// At most this many writes share a transaction.
const GROUP: usize = 512;
/// At most this many writes wait; more clients wait to enter.
const QUEUE: usize = 4096;

#[derive(Debug)]
pub(crate) enum Request {
    Write(Write, oneshot::Sender<Result<Revision>>),
    Compact(Revision, oneshot::Sender<Result<()>>),
}

/// Starts the thread; it ends when every sender is gone.
pub(crate) fn start(
    db: Connection,
    ring: Arc<Ring>,
) -> Result<(mpsc::Sender<Request>, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || run(db, &ring, receiver))
        .map_err(|error| StoreError::Backend(format!("cannot start a thread: {error}").into()))?;
    Ok((sender, thread))
}

fn run(mut db: Connection, ring: &Ring, mut requests: mpsc::Receiver<Request>) {
    let mut waiting = Vec::new();
    while requests.blocking_recv_many(&mut waiting, GROUP) > 0 {
        let mut writes = Vec::new();
        let mut compactions = Vec::new();
        for request in waiting.drain(..) {
            match request {
                Request::Write(write, reply) => writes.push((write, reply)),
                Request::Compact(revision, reply) => compactions.push((revision, reply)),
            }
        }
        if !writes.is_empty() {
            commit(&mut db, ring, writes);
        }
        for (revision, reply) in compactions {
            // A client that no longer waits needs no answer, here and below.
            let _ = reply.send(compact(&mut db, revision));
        }
    }
}

fn commit(
    db: &mut Connection,
    ring: &Ring,
    writes: Vec<(Write, oneshot::Sender<Result<Revision>>)>,
) {
    let (writes, replies): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
    match apply_all(db, writes) {
        Ok((results, events)) => {
            // Published before it is acknowledged: who has the answer finds the write in a watch.
            if !events.is_empty() {
                ring.publish(events);
            }
            for (reply, result) in replies.into_iter().zip(results) {
                let _ = reply.send(result);
            }
        }
        Err(error) => {
            tracing::error!(%error, "a transaction failed");
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

type Applied = (Vec<Result<Revision>>, Vec<Arc<Event>>);

fn apply_all(db: &mut Connection, writes: Vec<Write>) -> Result<Applied> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut newest = log::newest(&transaction)?;
    let mut results = Vec::with_capacity(writes.len());
    let mut events = Vec::with_capacity(writes.len());
    for write in writes {
        let result = match apply(&transaction, write, newest.next()) {
            Ok(event) => {
                newest = event.revision;
                events.push(Arc::new(event));
                Ok(newest)
            }
            // The database itself failed: nothing of this group may be acknowledged.
            Err(error @ StoreError::Backend(_)) => return Err(error),
            Err(refused) => Err(refused),
        };
        results.push(result);
    }
    transaction.commit()?;
    Ok((results, events))
}

fn apply(db: &Connection, write: Write, revision: Revision) -> Result<Event> {
    let current = log::get(db, write.key())?;
    let (key, value, expected) = match write {
        Write::Create { key, value } => (key, Some(value), None),
        Write::Update { key, value, expected } => (key, Some(value), Some(expected)),
        Write::Delete { key, expected } => (key, None, Some(expected)),
    };
    let previous = match (current, expected) {
        (None, None) => None,
        (Some(_), None) => return Err(StoreError::Exists(key)),
        (None, Some(_)) => return Err(StoreError::Absent(key)),
        (Some(current), Some(expected)) if current.revision == expected => Some(current.value),
        (Some(current), Some(_)) => {
            return Err(StoreError::Changed { key, current: current.revision });
        }
    };
    db.prepare_cached("INSERT INTO log (revision, key, value) VALUES (?, ?, ?)")?
        .execute(params![log::to_sql(revision), key, value])?;
    if value.is_some() {
        db.prepare_cached("INSERT OR REPLACE INTO live (key, revision) VALUES (?, ?)")?
            .execute(params![key, log::to_sql(revision)])?;
    } else {
        db.prepare_cached("DELETE FROM live WHERE key = ?")?.execute([&key])?;
    }
    Ok(Event { revision, key, value: value.map(Into::into), previous })
}

fn compact(db: &mut Connection, revision: Revision) -> Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let current = log::newest(&transaction)?;
    if revision > current {
        return Err(StoreError::Future { requested: revision, current });
    }
    let compacted = log::compacted(&transaction)?;
    if revision < compacted {
        return Err(StoreError::Compacted { requested: revision, compacted });
    }
    log::compact(&transaction, revision)?;
    transaction.commit()?;
    // The write-ahead log still has what was forgotten. A reader under way may keep it so until the
    // next time.
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
