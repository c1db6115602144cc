//! Records of the log.

use super::super::bytes::{Malformed, Reader, Writer};
use super::commit::Commit;
use super::image::Image;
use super::store::{read_features, write_features};
use super::{LeaseKind, ObjectSeal, OwnerId, When};
use bytes::Bytes;

/// The most bytes in a record. What is longer goes into parts and pieces.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;
/// What the length of a record is a multiple of, so that it tells less.
const STEP: usize = 256;
const HOST_BYTES_MAX: usize = 255;

/// A version of `header.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderRef {
    /// Its number, from 1 on; 0: there is none yet.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
}

/// What every record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Seal of the record before; zeros in record 1.
    pub before: ObjectSeal,
    /// Who wrote it.
    pub owner: OwnerId,
    /// Random: tells whether a record is the very one that somebody wrote.
    pub nonce: [u8; 16],
    /// When it was written, by the clock of its owner. Never earlier than the record before says.
    pub time: When,
    /// Number of the claim that is in force: of this record, if it is one; 0 if it is none and the owner has said goodbye with it.
    pub claim: u64,
    /// Number of the newest image: of this record, if it is one; 0: none.
    pub image: u64,
    /// The version of the header that is in force.
    pub header: HeaderRef,
}

/// An owner's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Name of its host, as it calls itself.
    pub host: String,
    /// Its lease.
    pub lease: LeaseKind,
    /// Whom it took the store from, without its consent.
    pub from: Option<OwnerId>,
    /// Number of the claim that was in force until then; 0: none was.
    pub before: u64,
    /// Random: its owner's sign of life is for this claim alone, so that nothing that is said of an earlier one is taken for it.
    pub sign: u64,
    /// What a reader must know from here on ([`REMOTE_FEATURES`](super::REMOTE_FEATURES)).
    pub features: Vec<String>,
}

/// What a record is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The store has another owner, from here on.
    Claim(Claim),
    /// The store has changed.
    Commit(Box<Commit>),
    /// Everything is shipped, and the owner is none any more.
    Goodbye,
    /// The state, as a whole; it has not changed.
    Image(Box<Image>),
}

/// A record, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1 on.
    pub number: u64,
    /// Its own seal, which the next one names.
    pub seal: ObjectSeal,
    /// What all have.
    pub head: RecordHead,
    /// What it is for.
    pub contents: Contents,
}

impl Contents {
    /// Its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::Commit(_) => "commit",
            Self::Goodbye => "goodbye",
            Self::Image(_) => "image",
        }
    }
}

impl RecordHead {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.before).bytes(&self.owner.0.to_be_bytes()).bytes(&self.nonce);
        out.u64(self.time.seconds).u32(self.time.nanoseconds).u64(self.claim).u64(self.image);
        out.u64(self.header.number).bytes(&self.header.hash);
    }

    fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let head = Self {
            before: from.array()?,
            owner: OwnerId(u128::from_be_bytes(from.array()?)),
            nonce: from.array()?,
            time: When { seconds: from.u64()?, nanoseconds: from.u32()? },
            claim: from.u64()?,
            image: from.u64()?,
            header: HeaderRef { number: from.u64()?, hash: from.array()? },
        };
        if head.time.nanoseconds >= 1_000_000_000 { Err(Malformed("its time is invalid")) } else { Ok(head) }
    }
}

/// The body of a record.
pub(in super::super) fn record_body(head: &RecordHead, contents: &Contents) -> Vec<u8> {
    let mut out = Writer::default();
    head.write(&mut out);
    match contents {
        Contents::Claim(claim) => {
            out.u8(1).text(&claim.host, HOST_BYTES_MAX).u8(claim.lease.number());
            out.bytes(&claim.from.map_or(0, |owner| owner.0).to_be_bytes()).u64(claim.before).u64(claim.sign);
            write_features(&mut out, &claim.features);
        }
        Contents::Commit(commit) => {
            out.u8(2);
            commit.write(&mut out);
        }
        Contents::Goodbye => {
            out.u8(3);
        }
        Contents::Image(image) => {
            out.u8(4);
            image.write(&mut out);
        }
    }
    out.pad(STEP);
    out.take()
}

/// The record of this number, seal and body.
pub(in super::super) fn record_of_body(
    number: u64,
    seal: ObjectSeal,
    body: Bytes,
) -> Result<Record, Malformed> {
    let mut from = Reader::new(body);
    let head = RecordHead::read(&mut from)?;
    let contents = match from.u8()? {
        1 => {
            let host = from.text(HOST_BYTES_MAX)?;
            let lease = LeaseKind::of(from.u8()?).ok_or(Malformed("it has an unknown kind of lease"))?;
            let owner = u128::from_be_bytes(from.array()?);
            let before = from.u64()?;
            if before >= number {
                return Err(Malformed("it is a claim on one that comes later"));
            }
            let sign = from.u64()?;
            let features = read_features(&mut from)?;
            let owner = (owner != 0).then_some(OwnerId(owner));
            Contents::Claim(Claim { host, lease, from: owner, before, sign, features })
        }
        2 => Contents::Commit(Box::new(Commit::read(&mut from)?)),
        3 => Contents::Goodbye,
        4 => Contents::Image(Box::new(Image::read(&mut from)?)),
        _ => return Err(Malformed("it is a record of an unknown kind")),
    };
    from.only_zeros_left()?;
    // What a head says of its own record must be so.
    let consistent = number > 0
        && head.claim <= number
        && head.image <= number
        && (head.claim == number) == matches!(contents, Contents::Claim(_))
        && (head.claim == 0) == matches!(contents, Contents::Goodbye)
        && (head.image == number) == matches!(contents, Contents::Image(_));
    if consistent {
        Ok(Record { number, seal, head, contents })
    } else {
        Err(Malformed("it contradicts itself"))
    }
}
