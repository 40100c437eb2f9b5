//! Elements of the cluster's sets and maps, changed over netlink in one transaction.
//!
//! `nft` could do it, but to start it and to have it ask what tables, chains and sets there are
//! costs many times what the kernel takes for a change of a few elements, which is what a Service's
//! endpoint is; and so does its end ([`Door`]). So scripts say what the sets and rules are, and what
//! is in the sets comes from here.
//!
//! How a key is laid out is said in nftables' own source (`src/datatype.c`, concatenations): each
//! part begins at a multiple of four bytes; addresses and ports are in network byte order, marks and
//! groups in the host's.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
    SetElementMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use crate::NetError;

/// The table that they are in, of the family `ip`.
const TABLE: &str = "bulkhead";

/// So many go into one message, whose list of them may have 64 KiB: none takes more than 128 bytes.
const CHUNK: usize = 500;

/// NFNL_SUBSYS_NFTABLES of `linux/netfilter/nfnetlink.h`: whose messages a batch is made of.
const NFTABLES: u16 = 10;

/// Where an element of a set is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    first: Vec<u8>,
    /// In a set of intervals, whose elements are not to overlap: where it ends, part by part.
    last: Option<Vec<u8>>,
}

impl Key {
    /// From one key to another, both included, in a set of intervals.
    pub(crate) const fn range(first: Vec<u8>, last: Vec<u8>) -> Self {
        Self { first, last: Some(last) }
    }

    fn attributes(&self) -> Vec<SetElementAttribute> {
        let value = |key: &[u8]| DataAttribute::Value(key.to_vec());
        let mut attributes = vec![SetElementAttribute::Key(value(&self.first))];
        // The crate has no type for what is in this one, which is what is in a key.
        attributes.extend(self.last.as_ref().map(|last| {
            let end = value(last);
            let mut bytes = vec![0; end.value_len()];
            end.emit_value(&mut bytes);
            SetElementAttribute::KeyEnd(vec![DefaultNla::new(end.kind(), bytes)])
        }));
        attributes
    }
}

impl From<Vec<u8>> for Key {
    fn from(first: Vec<u8>) -> Self {
        Self { first, last: None }
    }
}

/// What a map has for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// Nothing: it is a set's.
    None,
    /// Data, laid out as keys are.
    Data(Vec<u8>),
    /// The verdict to go on in the chain of that name.
    Goto(String),
}

/// What is to be changed: sets are emptied first, then elements deleted, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    flushed: Vec<String>,
    deleted: BTreeMap<String, Vec<Key>>,
    added: BTreeMap<String, Vec<(Key, Value)>>,
}

impl Elements {
    /// A set or map loses all that it has.
    pub(crate) fn flush(&mut self, set: String) {
        self.flushed.push(set);
    }

    /// What a set has for a key, and it has something, goes.
    pub(crate) fn delete(&mut self, set: String, key: impl Into<Key>) {
        self.deleted.entry(set).or_default().push(key.into());
    }

    /// A set, which has nothing else for that key then, gets a value for it.
    pub(crate) fn add(&mut self, set: String, key: impl Into<Key>, value: Value) {
        self.added.entry(set).or_default().push((key.into(), value));
    }

    fn messages(&self) -> impl Iterator<Item = NfTablesMessage> {
        let of = |set: &String, elements: Vec<Vec<SetElementAttribute>>| {
            let elements = elements.into_iter().map(ListAttribute::Element).collect();
            let table = SetElementList::Table(TABLE.to_owned());
            let set = SetElementList::Set(set.clone());
            SetElementMessage { attributes: vec![table, set, SetElementList::Elements(elements)] }
        };
        let flushed = self.flushed.iter().map(move |set| {
            let mut all = of(set, Vec::new());
            all.attributes.pop();
            NfTablesMessage::DeleteSetElement(all)
        });
        let deleted = self.deleted.iter().flat_map(move |(set, keys)| {
            keys.chunks(CHUNK).map(move |keys| {
                NfTablesMessage::DeleteSetElement(of(
                    set,
                    keys.iter().map(Key::attributes).collect(),
                ))
            })
        });
        let added = self.added.iter().flat_map(move |(set, elements)| {
            elements.chunks(CHUNK).map(move |elements| {
                let elements = elements.iter().map(|(key, value)| {
                    key.attributes().into_iter().chain(value.attribute()).collect()
                });
                NfTablesMessage::NewSetElement(of(set, elements.collect()))
            })
        });
        flushed.chain(deleted).chain(added)
    }
}

impl Value {
    fn attribute(&self) -> Option<SetElementAttribute> {
        let data = match self {
            Self::None => return None,
            Self::Data(data) => DataAttribute::Value(data.clone()),
            Self::Goto(chain) => DataAttribute::Verdict(vec![
                VerdictAttribute::Code(Verdict::Goto),
                VerdictAttribute::Chain(chain.clone()),
            ]),
        };
        Some(SetElementAttribute::Data(data))
    }
}

/// The way to the kernel's nf_tables, of one network namespace at a time.
///
/// It stays open from change to change: the kernel lets nobody close it who has changed anything before
/// what was replaced is freed, which takes tens of milliseconds after the change is in force.
#[derive(Debug, Default)]
pub(crate) struct Door(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    /// The namespace's device and inode, which nothing else has as long as this is open.
    namespace: (u64, u64),
    socket: Socket,
}

impl Door {
    /// Changes elements of the calling thread's network namespace: all or, with an error, none.
    pub(crate) fn change(&self, elements: &Elements) -> Result<(), NetError> {
        let Some(batch) = batch(elements) else { return Ok(()) };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&mut open, &batch).map_err(|error| {
            // Whatever else it would say of this must not be taken for a word on what comes next.
            *open = None;
            NetError::io("changing elements of nftables' sets")(error)
        })
    }

    /// Closes it, so that its namespace may go; the next change opens it again.
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The messages of a transaction, none if there is nothing to change. The last that changes something
/// is to be acknowledged, which the kernel does when all is in force.
fn batch(elements: &Elements) -> Option<Vec<u8>> {
    let mut batch = Vec::new();
    let mut append = |message: NetfilterMessageInner, flags: u16| {
        let control = matches!(message, NetfilterMessageInner::None(_));
        let header = if control {
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES)
        } else {
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0)
        };
        let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let begin = batch.len();
        batch.resize(begin + message.buffer_len(), 0);
        message.serialize(&mut batch[begin..]);
    };
    let mut messages = elements.messages().peekable();
    messages.peek()?;
    append(ControlMessage::BatchBegin.into(), 0);
    while let Some(message) = messages.next() {
        let last = if messages.peek().is_none() { NLM_F_ACK } else { 0 };
        append(message.into(), NLM_F_CREATE | last);
    }
    append(ControlMessage::BatchEnd.into(), 0);
    Some(batch)
}

/// Sends a batch, and hears what the kernel says of it.
fn tell(open: &mut Option<Open>, batch: &[u8]) -> io::Result<()> {
    let here = std::fs::metadata("/proc/thread-self/ns/net")?;
    let namespace = (here.st_dev(), here.st_ino());
    let socket = match open {
        Some(open) if open.namespace == namespace => &open.socket,
        _ => &open.insert(Open { namespace, socket: connect()? }).socket,
    };
    // The first of all changes has every element. Without the privilege the system's limit holds.
    let size = batch.len().saturating_mul(2);
    setsockopt(socket, sockopt::SndBufForce, &size)
        .or_else(|_| setsockopt(socket, sockopt::SndBuf, &size))?;
    socket.send_to(batch, &SocketAddr::new(0, 0), 0)?;
    // It has said all there is to say by now.
    let mut done = false;
    loop {
        let answer = match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && done => return Ok(()),
            answer => answer?.0,
        };
        let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&answer);
        if let NetlinkPayload::Error(error) = answer.map_err(io::Error::other)?.payload {
            if error.code.is_some() {
                return Err(error.to_io());
            }
            done = true;
        }
    }
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.set_cap_ack(true)?; // An error need not repeat what it is about.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What sets have, as strict as the kernel.
    pub(crate) type Held = BTreeMap<String, BTreeMap<Key, Value>>;

    impl Elements {
        /// Changes what sets have.
        pub(crate) fn apply(&self, held: &mut Held) {
            for set in &self.flushed {
                held.remove(set);
            }
            for (set, keys) in &self.deleted {
                for key in keys {
                    let gone = held.get_mut(set).and_then(|held| held.remove(key));
                    assert!(gone.is_some(), "{set} has no {key:?} to delete");
                }
            }
            for (set, elements) in &self.added {
                for (key, value) in elements {
                    let before =
                        held.entry(set.clone()).or_default().insert(key.clone(), value.clone());
                    assert_eq!(before, None, "{set} has something for {key:?}");
                }
            }
            held.retain(|_, elements| !elements.is_empty());
        }
    }

    fn lengths(batch: &[u8]) -> Vec<usize> {
        let mut rest = batch;
        let mut lengths = Vec::new();
        while let Some(length) = rest.first_chunk() {
            let length = u32::from_ne_bytes(*length) as usize;
            lengths.push(length);
            rest = &rest[length..];
        }
        lengths
    }

    #[test]
    fn no_change_is_no_batch() {
        assert_eq!(batch(&Elements::default()), None);
    }

    #[test]
    fn the_longest_elements_fit_into_messages() {
        let mut elements = Elements::default();
        for number in 0_u32..1001 {
            // A key of five parts, and the longest name that a chain may have here.
            let key = number.to_ne_bytes().repeat(5);
            elements.add("map".to_owned(), key, Value::Goto("c".repeat(48)));
        }
        let lengths = lengths(&batch(&elements).unwrap());
        // The ends of the batch, and three messages of elements.
        assert_eq!(lengths.len(), 5);
        assert!(lengths.iter().all(|length| *length < usize::from(u16::MAX)), "{lengths:?}");
    }
}
