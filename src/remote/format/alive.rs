//! An owner's sign of life.

use super::super::bytes::{Malformed, Reader, Writer};
use super::{LeaseKind, OwnerId};
use bytes::Bytes;

/// What becomes of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It goes on.
    On,
    /// It answers nothing: it was fenced, has said goodbye, or has claimed the store only to attach it.
    Over,
}

/// The object `alive/<owner>-<sign>`, which its owner writes again and again. It counts, and nothing else of it matters to a claimer: that it
/// changes is life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Whose it is.
    pub owner: OwnerId,
    /// For which claim: [`Claim::sign`](super::Claim::sign).
    pub sign: u64,
    /// How many times it was written by this process, and with a random beginning, so that no two processes of an owner write the same.
    pub counter: u64,
    /// The owner's lease.
    pub lease: LeaseKind,
    /// How often it is written, in seconds.
    pub period: u32,
    /// What becomes of the owner.
    pub life: Life,
}

impl Alive {
    pub(in super::super) fn to_body(self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&self.owner.0.to_be_bytes()).u64(self.sign).u64(self.counter).u8(self.lease.number());
        out.u32(self.period).u8(matches!(self.life, Life::Over).into()).u16(0);
        out.take()
    }

    pub(in super::super) fn from_body(body: Bytes) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let owner = OwnerId(u128::from_be_bytes(from.array()?));
        let (sign, counter) = (from.u64()?, from.u64()?);
        let lease = LeaseKind::of(from.u8()?).ok_or(Malformed("it has an unknown kind of lease"))?;
        let period = from.u32()?;
        let life = match from.u8()? {
            0 => Life::On,
            1 => Life::Over,
            _ => return Err(Malformed("it does not say whether its owner is at work")),
        };
        from.u16()?;
        from.end()?;
        Ok(Self { owner, sign, counter, lease, period, life })
    }
}
