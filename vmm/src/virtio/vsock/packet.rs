//! The header of a vsock packet (§5.10.6): 44 bytes, little-endian.
//!
//! Read and written by value, so that what was checked is what is used. (The `virtio-vsock` crate
//! parses packets of one or two descriptors only; Linux sends what a program wrote with `MSG_ZEROCOPY`
//! as a chain of one for the header and one for each page.)

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// The host's context id.
pub(super) const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the only type of socket here.
pub(super) const STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet receives no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Operation {
    pub(super) const fn parse(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data that follow.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// The sender's receive buffer for this connection.
    pub(super) buffer: u32,
    /// Bytes of this connection that the sender has consumed, ever, modulo 2³².
    pub(super) forwarded: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        let mut reader = Reader(bytes);
        Self {
            src_cid: u64::from_le_bytes(reader.take()),
            dst_cid: u64::from_le_bytes(reader.take()),
            src_port: u32::from_le_bytes(reader.take()),
            dst_port: u32::from_le_bytes(reader.take()),
            length: u32::from_le_bytes(reader.take()),
            kind: u16::from_le_bytes(reader.take()),
            operation: u16::from_le_bytes(reader.take()),
            flags: u32::from_le_bytes(reader.take()),
            buffer: u32::from_le_bytes(reader.take()),
            forwarded: u32::from_le_bytes(reader.take()),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        bytes[40..].copy_from_slice(&self.forwarded.to_le_bytes());
        bytes
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// The next `N` bytes; zeroes past the end, which a header's fields do not reach.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.0 = rest;
                *bytes
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_survive_the_way_there_and_back(bytes in proptest::array::uniform(any::<u8>())) {
            let bytes: [u8; HEADER] = bytes;
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }

    #[test]
    fn fields_lie_where_the_standard_puts_them() {
        let mut bytes = [0; HEADER];
        bytes[0] = 3;
        bytes[8] = 2;
        bytes[17] = 4;
        bytes[28] = 1;
        bytes[30] = 5;
        bytes[43] = 0x80;
        let header = Header::from_bytes(&bytes);
        assert_eq!((header.src_cid, header.dst_cid, header.src_port), (3, 2, 1024));
        assert_eq!((header.kind, header.operation), (STREAM, Operation::Data as u16));
        assert_eq!(header.forwarded, 1 << 31);
    }
}
