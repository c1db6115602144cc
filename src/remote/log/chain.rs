//! Reading records in order, several at a time.

use super::super::error::{RemoteError, Result};
use super::super::format::{ObjectSeal, Record};
use super::super::names;
use super::super::objects::Objects;
use super::super::seal::RemoteSealer;
use super::super::side_by_side::all;
use super::{Position, RECORD_OBJECT_MAX, listed_lengths, open_up_to};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Records that are asked for at once,
const AT_ONCE: usize = 8;
/// and their bytes, unless one alone has more.
const BYTES_AT_ONCE: u64 = RECORD_OBJECT_MAX;

/// Records up to the newest one that was known, in order. Each names the one before it; the last one must be the one that was known.
#[derive(Debug)]
pub struct Chain {
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    next: u64,
    before: Option<ObjectSeal>,
    last: Position,
    ready: VecDeque<Result<Record>>,
    /// Lengths of records ahead, as far as they are listed, and up to which number that was asked for.
    lengths: BTreeMap<u64, u64>,
    listed_up_to: u64,
    bytes_at_once: u64,
    is_over: bool,
}

impl Chain {
    pub(super) fn new(
        objects: Arc<dyn Objects>,
        sealer: RemoteSealer,
        first: u64,
        before: Option<ObjectSeal>,
        last: Position,
    ) -> Self {
        Self {
            objects,
            sealer,
            next: first.max(1),
            before,
            last,
            ready: VecDeque::new(),
            lengths: BTreeMap::new(),
            listed_up_to: 0,
            bytes_at_once: BYTES_AT_ONCE,
            is_over: false,
        }
    }

    /// The records to ask for at once, which begin with the next one, and how many bytes each may have. One that is not listed, because that is
    /// late, may have as many as any.
    fn next_few(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut some = Vec::new();
        if self.next == self.last.number {
            some.push((self.next, RECORD_OBJECT_MAX));
            return Ok(some);
        }
        if self.next > self.listed_up_to {
            (self.lengths, self.listed_up_to) =
                listed_lengths(&*self.objects, self.next - 1, self.last.number)?;
        }
        let mut left = self.bytes_at_once;
        for number in (self.next..=self.last.number).take(AT_ONCE) {
            let bytes = self.lengths.get(&number).map_or(RECORD_OBJECT_MAX, |bytes| *bytes);
            if bytes > left && !some.is_empty() {
                break;
            }
            left = left.saturating_sub(bytes);
            some.push((number, bytes.min(RECORD_OBJECT_MAX)));
        }
        Ok(some)
    }

    fn fetch(&mut self) {
        let some = match self.next_few() {
            Ok(some) => some,
            Err(e) => {
                self.ready.push_back(Err(e));
                return;
            }
        };
        let (objects, sealer) = (&*self.objects, &self.sealer);
        let records = all(AT_ONCE, &some, |(number, most)| open_up_to(objects, sealer, *number, *most));
        self.ready.extend(records.into_iter().map(|record| record.unwrap_or(Err(RemoteError::Interrupted))));
    }

    fn checked(&self, record: Result<Record>) -> Result<Record> {
        let (place, name) = (self.sealer.place(), names::record(self.next));
        let record = record.map_err(|e| e.or_lost(place, || name.clone()))?;
        if self.before.is_some_and(|before| record.head.before != before) {
            let what = format!("it does not follow on record {}", self.next - 1);
            return Err(RemoteError::damaged(place, &name, what));
        }
        if self.next == self.last.number && record.seal != self.last.seal {
            return Err(RemoteError::damaged(place, &name, "it is another one than was there before"));
        }
        Ok(record)
    }
}

impl Iterator for Chain {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.is_over || self.next > self.last.number {
            return None;
        }
        if self.ready.is_empty() {
            self.fetch();
        }
        let record = self.ready.pop_front()?;
        let record = self.checked(record);
        match &record {
            Ok(record) => (self.next, self.before) = (self.next + 1, Some(record.seal)),
            Err(_) => self.is_over = true,
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::directory::Directory;
    use super::super::super::format::{Claim, Commit, Contents, LeaseKind, OwnerId, Page, When};
    use super::super::{Log, Owner, Seen};
    use super::*;
    use crate::crypto::Keys;
    use crate::store::StoreId;

    /// Eight records of 64 MiB each were in memory at once.
    #[test]
    fn records_that_are_read_at_once_have_few_bytes_together() {
        let tmp = tempfile::tempdir().unwrap();
        let objects: Arc<dyn Objects> = Arc::new(Directory::new(tmp.path()));
        let sealer = RemoteSealer::new(StoreId(7), &Keys::Plain, objects.place());
        let mut log = Log::open(Arc::clone(&objects), sealer, Seen::Nothing).unwrap();
        let me = Owner { id: OwnerId(7), host: "host".into(), lease: LeaseKind::None };
        let (host, features) = (me.host.clone(), Vec::new());
        let claim = Claim { host, lease: me.lease, from: None, before: 0, sign: 1, features };
        log.append(&me, Contents::Claim(claim), None, When::default()).unwrap();
        for pages in [1, 1, 1, 1, 1, 20, 20, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] {
            let changed = (1..=pages)
                .map(|number| Page { number, contents: vec![number as u8; 4080].into() })
                .collect();
            let commit = Commit { pages, page_bytes: 4080, changed, ..Commit::default() };
            log.append(&me, Contents::Commit(Box::new(commit)), None, When::default()).unwrap();
        }
        let mut chain = log.chain(1, None);
        chain.bytes_at_once = 100_000;
        let (mut at_once, mut numbers) = (Vec::new(), Vec::new());
        while let Some(record) = chain.next() {
            numbers.push(record.unwrap().number);
            if at_once.iter().sum::<usize>() < numbers.len() {
                at_once.push(chain.ready.len() + 1);
            }
        }
        assert_eq!(numbers, (1..=19).collect::<Vec<_>>());
        // (The claim and five short ones, and then no long one beside another, nor many short ones.)
        assert_eq!(at_once, [6, 1, 1, 5, 6]);
    }
}
