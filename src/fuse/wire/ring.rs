//! What is special to requests that come by io_uring. Each has an entry of two parts: headers (`struct fuse_uring_req_header`), and
//! the payload. The answer goes into the same two.

use super::abi::{InHeader, OutHeader, RingCommand, RingInOut};
use super::decode::{Malformed, Parts, args_bytes};
use zerocopy::{FromBytes, IntoBytes};

/// Where the structure begins that belongs to the kind of request, behind its header or that of its answer.
const ARGS_AT: usize = 128;
/// Where it ends, and says how long the payload is.
const IN_OUT_AT: usize = 256;
/// Bytes of the headers.
pub(in crate::fuse) const HEADER_BYTES: usize = IN_OUT_AT + size_of::<RingInOut>();
/// Bytes that a command of io_uring has for what it says.
const COMMAND_BYTES: usize = 80;

fn in_out(header: &[u8; HEADER_BYTES]) -> Result<RingInOut, Malformed> {
    RingInOut::read_from_prefix(&header[IN_OUT_AT..]).map(|(in_out, _)| in_out).map_err(|_| Malformed)
}

/// By which number the answer to a request is committed, whatever else is there.
pub(in crate::fuse) fn commit_id(header: &[u8; HEADER_BYTES]) -> u64 {
    in_out(header).map_or(0, |in_out| in_out.commit_id)
}

/// Takes a request apart.
pub(in crate::fuse) fn of_ring<'a>(
    header: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
) -> Result<Parts<'a>, Malformed> {
    let in_out = in_out(header)?;
    let (start, _) = InHeader::read_from_prefix(&header[..]).map_err(|_| Malformed)?;
    // What is behind them belongs to an earlier request.
    let args = header[ARGS_AT..IN_OUT_AT].get(..args_bytes(start.opcode)).ok_or(Malformed)?;
    let rest = payload.get(..in_out.payload_sz as usize).ok_or(Malformed)?;
    Ok(Parts { header: start, args, rest })
}

/// Puts the headers of an answer in the place of the request's. `len` bytes of it are in the payload.
pub(in crate::fuse) fn put_answer(header: &mut [u8; HEADER_BYTES], unique: u64, error: i32, len: usize) {
    let out = OutHeader { len: (size_of::<OutHeader>() + len) as u32, error, unique };
    header[..size_of::<OutHeader>()].copy_from_slice(out.as_bytes());
    let in_out = RingInOut { flags: 0, commit_id: unique, payload_sz: len as u32, padding: 0, reserved: 0 };
    header[IN_OUT_AT..].copy_from_slice(in_out.as_bytes());
}

/// What a command of a queue's says.
pub(in crate::fuse) fn command(queue: u16, commit_id: u64) -> [u8; COMMAND_BYTES] {
    let command = RingCommand { flags: 0, commit_id, queue, padding: [0; 6] };
    let mut bytes = [0; COMMAND_BYTES];
    bytes[..size_of::<RingCommand>()].copy_from_slice(command.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::wire::opcode;
    use zerocopy::FromZeros;

    fn request(kind: u32, payload: usize) -> [u8; HEADER_BYTES] {
        let mut bytes = [0xff; HEADER_BYTES];
        let header = InHeader { opcode: kind, unique: 8, ..InHeader::new_zeroed() };
        bytes[..size_of::<InHeader>()].copy_from_slice(header.as_bytes());
        let in_out = RingInOut { commit_id: 8, payload_sz: payload as u32, ..RingInOut::new_zeroed() };
        bytes[IN_OUT_AT..].copy_from_slice(in_out.as_bytes());
        bytes
    }

    #[test]
    fn the_parts_are_as_long_as_the_kernel_says_and_no_longer() {
        assert_eq!(HEADER_BYTES, 288);
        let header = request(opcode::WRITE, 3);
        let parts = of_ring(&header, b"abcd").unwrap();
        assert_eq!((parts.args.len(), parts.rest, commit_id(&header)), (40, &b"abc"[..], 8));
        assert!(of_ring(&header, b"ab").is_err());
    }

    #[test]
    fn an_answer_is_where_the_kernel_looks_for_it() {
        let mut header = request(opcode::READ, 0);
        put_answer(&mut header, 8, -5, 4096);
        assert_eq!(header[4..8], (-5i32).to_ne_bytes());
        assert_eq!(header[8..16], 8u64.to_ne_bytes());
        assert_eq!(header[272..276], 4096u32.to_ne_bytes());
        let bytes = command(3, 8);
        assert_eq!((&bytes[8..16], &bytes[16..18]), (&8u64.to_ne_bytes()[..], &3u16.to_ne_bytes()[..]));
    }
}
