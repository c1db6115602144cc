//! The bytes of a file.

/// Bytes of a file that lie in one allocation, so that a large file grows without being copied.
const PIECE_BYTES: u64 = 1 << 20;

/// Bytes up to a length; what no piece covers is zero.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    len: u64,
    /// Piece `i` begins at `i * PIECE_BYTES`, and may end early.
    pieces: Vec<Vec<u8>>,
}

impl Contents {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes in memory.
    pub(crate) fn held(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pieces.truncate(len.div_ceil(PIECE_BYTES) as usize);
            if let Some(last) = self.pieces.get_mut((len / PIECE_BYTES) as usize) {
                last.truncate((len % PIECE_BYTES) as usize);
            }
        }
        self.len = len;
    }

    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (index, at) = ((offset / PIECE_BYTES) as usize, (offset % PIECE_BYTES) as usize);
            let count = data.len().min(PIECE_BYTES as usize - at);
            let (now, later) = data.split_at(count);
            if self.pieces.len() <= index {
                self.pieces.resize_with(index + 1, Vec::new);
            }
            let piece = &mut self.pieces[index];
            if piece.len() < at {
                piece.resize(at, 0);
            }
            let over = count.min(piece.len() - at);
            piece[at..at + over].copy_from_slice(&now[..over]);
            piece.extend_from_slice(&now[over..]);
            offset += count as u64;
            data = later;
        }
        self.len = self.len.max(offset);
    }

    /// Appends to `out` what there is of `size` bytes at `offset`.
    pub(crate) fn read(&self, mut offset: u64, size: usize, out: &mut Vec<u8>) {
        let end = self.len.min(offset.saturating_add(size as u64));
        while offset < end {
            let (index, at) = ((offset / PIECE_BYTES) as usize, (offset % PIECE_BYTES) as usize);
            let count = ((end - offset) as usize).min(PIECE_BYTES as usize - at);
            let there = self.pieces.get(index).and_then(|piece| piece.get(at..)).unwrap_or_default();
            let there = &there[..there.len().min(count)];
            out.extend_from_slice(there);
            out.resize(out.len() + count - there.len(), 0);
            offset += count as u64;
        }
    }
}
