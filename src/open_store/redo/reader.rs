//! Reading back one epoch of the redo log.

use super::record::{self, Entry, HEADER_BYTES, Position};
use super::{LOG_NAMES, log_of};
use crate::backing::{Dir, File, OpenMode, read_padded};
use crate::store::StoreId;
use std::io;
use std::sync::Arc;

/// Walks the records of an epoch, from the first to the last that is whole.
pub(super) struct Reader {
    file: Option<Arc<dyn File>>,
    at: Position,
    offset: u64,
    len: u64,
    buf: Vec<u8>,
}

impl Reader {
    /// The records of `epoch`; none where the log is missing.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn open(dir: &dyn Dir, store: StoreId, epoch: u64) -> io::Result<Self> {
        let file = match dir.open(LOG_NAMES[log_of(epoch)], OpenMode::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let len = file.as_ref().map_or(Ok(0), |file| file.len())?;
        Ok(Self { file, at: Position { store, epoch, number: 0 }, offset: 0, len, buf: Vec::new() })
    }

    /// The next record, and where its body begins in the log. `None` behind the last whole one: whatever follows was
    /// being written when the process or the power went.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn next(&mut self) -> io::Result<Option<(Entry<'_>, u64)>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut header = [0; HEADER_BYTES];
        read_padded(&**file, &mut header, self.offset)?;
        let Some(body) = record::body_len(&header, self.at) else { return Ok(None) };
        // A length that the file does not have is not worth the memory.
        if self.offset + (HEADER_BYTES + body) as u64 > self.len {
            return Ok(None);
        }
        self.buf.resize(HEADER_BYTES + body, 0);
        read_padded(&**file, &mut self.buf, self.offset)?;
        let at = self.at;
        let body_at = self.offset + HEADER_BYTES as u64;
        let Some(entry) = record::decode(&self.buf, at) else { return Ok(None) };
        self.at.number += 1;
        self.offset = body_at + body as u64;
        Ok(Some((entry, body_at)))
    }
}
