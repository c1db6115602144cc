//! Taking bytes apart that came from a network, and putting them together. Nothing here panics, and nothing is allocated for a count that the
//! bytes behind it cannot hold.

use bytes::Bytes;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Takes bytes apart, from the first on.
#[derive(Debug)]
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next bytes, without copying them.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, Malformed> {
        if count > self.rest.len() {
            return Err(Malformed("it ends too early"));
        }
        Ok(self.rest.split_to(count))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        bytes.first_chunk().copied().ok_or(Malformed("it ends too early"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self, most: usize) -> Result<String, Malformed> {
        let len = usize::from(self.u16()?);
        if len > most {
            return Err(Malformed("a text is too long"));
        }
        String::from_utf8(self.bytes(len)?.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A list with the number of its items before it, each of which takes at least `least` bytes.
    pub(super) fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count > self.left() / least.max(1) {
            return Err(Malformed("a list is longer than what holds it"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// That only zeros are left.
    pub(super) fn only_zeros_left(self) -> Result<(), Malformed> {
        if self.rest.iter().all(|b| *b == 0) {
            Ok(())
        } else {
            Err(Malformed("there is something behind its end"))
        }
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("there is something behind its end")) }
    }
}

/// Puts bytes together.
#[derive(Debug, Default)]
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, number: u8) -> &mut Self {
        self.out.push(number);
        self
    }

    pub(super) fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A text with its length before it, cut to `most` bytes.
    pub(super) fn text(&mut self, text: &str, most: usize) -> &mut Self {
        let mut end = text.len().min(most).min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(end as u16).bytes(&text.as_bytes()[..end])
    }

    /// A list with the number of its items before it.
    pub(super) fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.u32(items.len() as u32);
        for one in items {
            item(self, one);
        }
        self
    }

    /// Zeros up to a multiple of `step`.
    pub(super) fn pad(&mut self, step: usize) -> &mut Self {
        self.out.resize(self.out.len().next_multiple_of(step), 0);
        self
    }

    pub(super) fn take(self) -> Vec<u8> {
        self.out
    }
}
