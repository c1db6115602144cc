//! A store as what is shipped to a remote: its moments.

use super::{Moment, OpenStore};
use crate::remote::{Source, State};
use crate::store::{ReadError, Run, StoredBlocks};
use std::io;
use std::sync::Arc;

impl Source for Arc<OpenStore> {
    fn has_news(&self) -> bool {
        OpenStore::has_news(self)
    }

    fn has_changes(&self) -> bool {
        OpenStore::has_changes(self)
    }

    fn header(&self) -> Result<Vec<u8>, String> {
        self.header_bytes().map_err(|e| e.to_string())
    }

    fn news_bytes(&self) -> Option<u64> {
        OpenStore::news_bytes(self)
    }

    fn state(&self, whole: bool) -> Result<Box<dyn State>, String> {
        match self.moment(whole) {
            Ok(moment) => Ok(Box::new(moment)),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl State for Moment {
    fn redo_epoch(&self) -> u64 {
        self.epoch()
    }

    fn page_count(&self) -> u32 {
        Moment::page_count(self)
    }

    fn page_bytes(&self) -> usize {
        Moment::pages(self).page_bytes()
    }

    fn is_whole(&self) -> bool {
        Moment::is_whole(self)
    }

    fn pages(&self) -> &[u32] {
        Moment::pages(self).numbers()
    }

    fn read_page(&self, place: usize, out: &mut [u8]) -> io::Result<()> {
        Moment::pages(self).read(place, out).map(drop)
    }

    fn blocks(&self) -> &[Run] {
        Moment::blocks(self)
    }

    fn segments(&self) -> &[(u64, u32)] {
        Moment::segments(self)
    }

    fn has_all_blocks(&self) -> bool {
        Moment::has_all_blocks(self)
    }

    fn freed(&self) -> Option<&[Run]> {
        Moment::freed(self)
    }

    fn key_epoch(&self, segment: u64) -> Option<u64> {
        self.store().segments().key_epoch(segment)
    }

    fn read(&self, run: Run) -> Result<Vec<StoredBlocks>, ReadError> {
        Moment::read(self, run)
    }

    fn header(&self) -> &[u8] {
        Moment::header(self)
    }

    fn is_sound(&self) -> bool {
        Moment::is_sound(self)
    }

    fn shipped(self: Box<Self>) {
        self.done();
    }
}
