//! Reading back one epoch of the redo log.

use super::record::{self, Entry, Position};
use super::{LOG_NAMES, log_of};
use crate::backing::{Dir, File, OpenMode, read_padded};
use crate::crypto::Keys;
use crate::store::StoreId;
use std::io;
use std::sync::Arc;

/// Walks the records of an epoch, from the first to the last that is whole.
pub(super) struct Reader {
    file: Option<Arc<dyn File>>,
    keys: Keys,
    at: Position,
    offset: u64,
    len: u64,
    buf: Vec<u8>,
}

/// Where a record lies in its log, to be read again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) epoch: u64,
    number: u32,
    offset: u64,
    /// Of the segments that it is about.
    pub(super) key_epoch: u64,
}

impl Reader {
    /// The records of `epoch`; none where the log is missing.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn open(dir: &dyn Dir, store: StoreId, keys: &Keys, epoch: u64) -> io::Result<Self> {
        Self::from(dir, store, keys, Spot { epoch, number: 0, offset: 0, key_epoch: 0 })
    }

    /// The records from `spot` on.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn from(dir: &dyn Dir, store: StoreId, keys: &Keys, spot: Spot) -> io::Result<Self> {
        let Spot { epoch, number, offset, .. } = spot;
        let file = match dir.open(LOG_NAMES[log_of(epoch)], OpenMode::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let len = file.as_ref().map_or(Ok(0), |file| file.len())?;
        let at = Position { store, epoch, number };
        Ok(Self { file, keys: keys.clone(), at, offset, len, buf: Vec::new() })
    }

    /// The next record, and where it lies. `None` behind the last whole one: whatever follows was
    /// being written when the process or the power went.
    ///
    /// # Errors
    /// As the backing files.
    pub(super) fn next(&mut self) -> io::Result<Option<(Entry<'_>, Spot)>> {
        let Some(file) = &self.file else { return Ok(None) };
        let header_bytes = record::header_bytes(&self.keys);
        self.buf.resize(header_bytes, 0);
        read_padded(&**file, &mut self.buf, self.offset)?;
        let Some(body) = record::body_len(&self.buf, self.at) else { return Ok(None) };
        // A length that the file does not have is not worth the memory.
        let end = self.offset + (header_bytes + body) as u64;
        if end > self.len {
            return Ok(None);
        }
        self.buf.resize(header_bytes + body, 0);
        read_padded(&**file, &mut self.buf, self.offset)?;
        let at = self.at;
        let key_epoch = record::key_epoch(&self.buf, &self.keys);
        let Some(entry) = record::decode(&mut self.buf, &self.keys, at) else { return Ok(None) };
        let spot = Spot { epoch: at.epoch, number: at.number, offset: self.offset, key_epoch };
        self.at.number += 1;
        self.offset = end;
        Ok(Some((entry, spot)))
    }
}
