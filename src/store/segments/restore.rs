//! What recovery does with segments that a killed process or a power cut left.

use super::super::SEGMENT_DIR;
use super::super::address::BlockAddr;
use super::super::layout::{BLOCK_BYTES, data_offset, seal_offset, segment_len};
use super::super::seal::Seal;
use super::super::segment::{HeaderState, SegmentHeader, segment_name};
use super::{ReadError, Segments};
use crate::backing::{File, OpenMode};
use std::io::{self, IoSlice};
use std::path::PathBuf;

impl Segments {
    /// Writes a sealed block again to the address it was written to before, after a crash that the segment did not
    /// survive in whole. The same bytes: nothing else may ever be written to that address.
    ///
    /// # Errors
    /// As the backing files.
    pub fn restore(
        &self,
        addr: BlockAddr,
        key_epoch: u64,
        seal: &Seal,
        contents: &[u8; BLOCK_BYTES],
    ) -> io::Result<()> {
        let file = self.dir.open(&segment_name(addr.segment), OpenMode::Create)?;
        self.must_be_ours(addr.segment, &*file)?;
        self.restore_header_of(addr.segment, key_epoch, &*file)?;
        file.write_at(&[IoSlice::new(contents)], data_offset(addr.index))?;
        file.write_at(&[IoSlice::new(seal)], seal_offset(addr.index))
    }

    /// Writes the header of a segment of this key epoch again if a crash lost it; a segment that is not there is no error.
    ///
    /// # Errors
    /// As the backing files.
    pub fn restore_header(&self, id: u64, key_epoch: u64) -> io::Result<()> {
        match self.dir.open(&segment_name(id), OpenMode::ReadWrite) {
            Ok(file) => self.restore_header_of(id, key_epoch, &*file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn restore_header_of(&self, id: u64, key_epoch: u64, file: &dyn File) -> io::Result<()> {
        if let (HeaderState::Damaged(_), _) = self.header_state(id, file)? {
            let header = SegmentHeader { store: self.store, segment: id, key_epoch }.encode();
            file.write_at(&[IoSlice::new(&header)], 0)?;
        }
        Ok(())
    }

    /// Nothing is written to a file that says that it is something else.
    fn must_be_ours(&self, id: u64, file: &dyn File) -> io::Result<()> {
        match self.header_state(id, file)?.0 {
            HeaderState::Foreign(what) => Err(io::Error::new(io::ErrorKind::InvalidData, what)),
            HeaderState::Good | HeaderState::Damaged(_) => Ok(()),
        }
    }

    /// Makes segments durable that a killed process wrote to, each up to a tail. Zeros at its end may not have survived,
    /// and are written again.
    ///
    /// # Errors
    /// The path and the error of the first segment for which it failed.
    pub fn sync_recovered(
        &self,
        tails: impl IntoIterator<Item = (u64, u32)>,
    ) -> Result<(), (PathBuf, io::Error)> {
        for (id, tail) in tails {
            let name = segment_name(id);
            let synced = self.dir.open(&name, OpenMode::ReadWrite).and_then(|file| {
                self.must_be_ours(id, &*file)?;
                if file.len()? < segment_len(tail) {
                    file.set_len(segment_len(tail))?;
                }
                file.sync()
            });
            synced.map_err(|e| (self.dir.path(&name), e))?;
        }
        self.dir.sync(SEGMENT_DIR).map_err(|e| (self.dir.path(SEGMENT_DIR), e))
    }

    /// Cuts off what was appended behind block `tail` and never became part of a commit, and what a killed process reserved
    /// there.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn cut(&self, id: u64, tail: u32) -> Result<(), ReadError> {
        let segment = self.file(id)?;
        let io = |source| ReadError::Io { path: self.dir.path(&segment_name(id)), source };
        // What was reserved is not to be seen where the segment has holes: to cut it where it ends costs next to nothing.
        let end = segment.file.len().map_err(io)?.min(segment_len(tail));
        segment.file.set_len(end).map_err(io)
    }
}
