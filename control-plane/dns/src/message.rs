//! Messages: what a client's bytes ask, and the bytes of an answer.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};

use crate::zone::Answer;

/// The longest question that is read, in bytes; real ones are shorter by far.
pub(crate) const MAX_QUESTION: usize = 4096;

/// The longest message over UDP without EDNS (RFC 1035, 2.3.4) …
const MIN_DATAGRAM: u16 = 512;
/// … and with it: what passes everywhere without fragments (<https://www.dnsflagday.net/2020/>).
const MAX_DATAGRAM: u16 = 1232;

/// The length of an OPT record without options (RFC 6891, 6.1.2).
const OPT: u16 = 11;

/// The length of a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// How a message came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A question that can be answered.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) query: Query,
    /// Whether others may be asked for the answer.
    pub(crate) recursion: bool,
    metadata: Metadata,
    edns: bool,
    /// The longest answer that the client takes.
    limit: u16,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Request {
    Question(Question),
    /// Something that is not answered but with this.
    Refused(Vec<u8>),
    /// Not even that; an answer to an answer could go on for ever.
    Ignored,
}

impl Request {
    pub(crate) fn parse(bytes: &[u8], transport: Transport) -> Self {
        let Ok(message) = Message::from_vec(bytes) else { return malformed(bytes) };
        if message.metadata.message_type != MessageType::Query {
            return Self::Ignored;
        }
        let limit = match (transport, &message.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => MIN_DATAGRAM,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MIN_DATAGRAM, MAX_DATAGRAM),
        };
        let metadata = message.metadata;
        let version = message.edns.as_ref().map(Edns::version);
        let mut queries = message.queries.into_iter();
        let (query, more) = (queries.next(), queries.next());
        let code = match (&query, more) {
            _ if metadata.op_code != OpCode::Query => Some(ResponseCode::NotImp),
            (None, _) | (_, Some(_)) => Some(ResponseCode::FormErr),
            _ if version.is_some_and(|version| version > 0) => Some(ResponseCode::BADVERS),
            (Some(query), _) => refused(query),
        };
        let query = query.unwrap_or_default();
        let recursion = metadata.recursion_desired;
        let question = Question { query, recursion, metadata, edns: version.is_some(), limit };
        match code {
            None => Self::Question(question),
            Some(code) => question
                .answer(Answer { code, ..Answer::default() }, false)
                .map_or(Self::Ignored, Self::Refused),
        }
    }
}

/// Why a question is not answered, if it is not.
fn refused(query: &Query) -> Option<ResponseCode> {
    match query.query_type() {
        _ if query.query_class() != DNSClass::IN => Some(ResponseCode::Refused),
        RecordType::AXFR | RecordType::IXFR => Some(ResponseCode::Refused),
        // What is of one message only, and is no data.
        RecordType::OPT | RecordType::TSIG | RecordType::ZERO => Some(ResponseCode::FormErr),
        _ => None,
    }
}

/// To bytes that are no message, if they are at least the header of a question.
fn malformed(bytes: &[u8]) -> Request {
    let [first, second, flags, ..] = *bytes else { return Request::Ignored };
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Request::Ignored;
    }
    let id = u16::from_be_bytes([first, second]);
    let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    message.to_vec().map_or(Request::Ignored, Request::Refused)
}

impl Question {
    /// The answer's bytes. As much of it as the client takes, and then marked as cut off: a client
    /// may ask again over TCP, or use what it has.
    pub(crate) fn answer(&self, answer: Answer, authoritative: bool) -> Option<Vec<u8>> {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.authoritative = authoritative;
        metadata.recursion_available = true;
        metadata.response_code = answer.code;
        let mut message = Message::response(metadata.id, metadata.op_code);
        message.metadata = metadata;
        if self.query != Query::default() {
            message.add_query(self.query.clone());
        }
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        message.edns = self.edns.then(|| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM);
            edns
        });
        self.spread(&mut message);
        let written = write(&message, self.limit)?;
        if written.whole {
            return Some(written.bytes);
        }
        // What is only of help goes first, and without being missed.
        message.additionals.clear();
        let written = write(&message, self.limit)?;
        if written.whole {
            return Some(written.bytes);
        }
        message.metadata.truncation = true;
        let edns = message.edns.take();
        let room = self.limit.saturating_sub(if edns.is_some() { OPT } else { 0 });
        let part = write(&message, room)?;
        message.answers.truncate(part.answers.into());
        message.authorities.truncate(part.authorities.into());
        message.edns = edns;
        Some(write(&message, self.limit)?.bytes)
    }

    /// Gives clients that take the first of several addresses different ones.
    fn spread(&self, message: &mut Message) {
        let first = message.answers.iter().position(|record| !is_alias(record));
        let addresses = first.and_then(|first| message.answers.get_mut(first..));
        if let Some(addresses) = addresses.filter(|addresses| addresses.len() > 1) {
            let by = usize::from(self.metadata.id) % addresses.len();
            addresses.rotate_left(by);
        }
    }
}

fn is_alias(record: &hickory_proto::rr::Record) -> bool {
    record.record_type() == RecordType::CNAME
}

struct Written {
    bytes: Vec<u8>,
    whole: bool,
    answers: u16,
    authorities: u16,
}

fn write(message: &Message, limit: u16) -> Option<Written> {
    let mut bytes = Vec::with_capacity(usize::from(limit.min(MAX_DATAGRAM)));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    let [_, _, flags, _, _, _, an, swer, au, thority, ..] = *bytes.as_slice() else { return None };
    Some(Written {
        whole: flags & 0x02 == 0 || message.metadata.truncation,
        answers: u16::from_be_bytes([an, swer]),
        authorities: u16::from_be_bytes([au, thority]),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};

    use super::*;

    fn question(edns: Option<u16>) -> Message {
        let mut message = Message::query();
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        message.metadata.recursion_desired = true;
        message.edns = edns.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        message
    }

    fn addresses(count: u32) -> Answer {
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        let record = |n| Record::from_rdata(name.clone(), 5, RData::A(A(Ipv4Addr::from_bits(n))));
        let answers: Vec<_> = (0..count).map(record).collect();
        Answer { additionals: answers.clone(), answers, ..Answer::default() }
    }

    fn parse(message: &Message, transport: Transport) -> Question {
        match Request::parse(&message.to_vec().unwrap(), transport) {
            Request::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(bytes: &[u8]) -> Message {
        match Request::parse(bytes, Transport::Udp) {
            Request::Refused(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_as_long_as_the_client_takes() {
        for (edns, transport, limit, whole) in [
            (None, Transport::Udp, 512, false),
            (Some(900), Transport::Udp, 900, false),
            (Some(65_000), Transport::Udp, 1232, false),
            (Some(1232), Transport::Tcp, 65_535, true),
        ] {
            let message = question(edns);
            let bytes = parse(&message, transport).answer(addresses(200), true).expect("an answer");
            assert!(bytes.len() <= limit, "{} bytes of {limit}", bytes.len());
            let answer = Message::from_vec(&bytes).unwrap();
            assert_eq!(answer.metadata.truncation, !whole);
            assert_eq!(answer.edns.is_some(), edns.is_some());
            assert_eq!(answer.metadata.id, message.metadata.id);
            if whole {
                assert_eq!(answer.answers.len(), 200);
            } else {
                // As many as there is room for: 16 bytes each, and while it is written its name is
                // not a pointer yet.
                let room = limit - bytes.len();
                assert!(room < 48 && !answer.answers.is_empty(), "{room} bytes left");
            }
        }
        // Without what is only of help it fits.
        let bytes = parse(&question(None), Transport::Udp).answer(addresses(20), true).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(!answer.metadata.truncation && answer.additionals.is_empty());
        assert_eq!(answer.answers.len(), 20);
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let bytes = |message: &Message| message.to_vec().unwrap();
        let mut update = question(None);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(refusal(&bytes(&update)).metadata.response_code, ResponseCode::NotImp);
        let mut two = question(None);
        two.queries.extend(two.queries.clone());
        assert_eq!(refusal(&bytes(&two)).metadata.response_code, ResponseCode::FormErr);
        let mut version = question(Some(1232));
        version.edns.as_mut().unwrap().set_version(1);
        // Its number is BADSIG's as well.
        let code = u16::from(refusal(&bytes(&version)).metadata.response_code);
        assert_eq!(code, u16::from(ResponseCode::BADVERS));
        let mut transfer = question(None);
        transfer.queries[0].set_query_type(RecordType::AXFR);
        assert_eq!(refusal(&bytes(&transfer)).metadata.response_code, ResponseCode::Refused);
        let mut chaos = question(None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(refusal(&bytes(&chaos)).metadata.response_code, ResponseCode::Refused);

        let mut cut = bytes(&question(None));
        cut.truncate(20);
        let error = refusal(&cut).metadata;
        assert_eq!(error.response_code, ResponseCode::FormErr);
        assert_eq!(error.id.to_be_bytes(), cut[..2]);
        for ignored in [&[][..], &cut[..11], &[0xff; 30]] {
            assert!(matches!(Request::parse(ignored, Transport::Udp), Request::Ignored));
        }
        let answer = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert!(matches!(Request::parse(&answer, Transport::Udp), Request::Ignored));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            for transport in [Transport::Udp, Transport::Tcp] {
                if let Request::Question(question) = Request::parse(&bytes, transport) {
                    proptest::prop_assert!(question.answer(addresses(3), true).is_some());
                }
            }
        }
    }
}
