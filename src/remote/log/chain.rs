//! Reading records in order, several at a time.

use super::super::error::{RemoteError, Result};
use super::super::format::{ObjectSeal, Record};
use super::super::names;
use super::super::objects::Objects;
use super::super::seal::RemoteSealer;
use super::super::side_by_side::all;
use super::{Position, read};
use std::collections::VecDeque;
use std::sync::Arc;

/// Records that are asked for at once. Each has at most [`RECORD_BYTES_MAX`](super::super::RECORD_BYTES_MAX), most of them far less.
const AT_ONCE: usize = 8;

/// Records up to the newest one that was known, in order. Each names the one before it; the last one must be the one that was known.
#[derive(Debug)]
pub struct Chain {
    objects: Arc<dyn Objects>,
    sealer: RemoteSealer,
    next: u64,
    before: Option<ObjectSeal>,
    last: Position,
    ready: VecDeque<Result<Record>>,
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
        let ready = VecDeque::new();
        Self { objects, sealer, next: first.max(1), before, last, ready, is_over: false }
    }

    fn fetch(&mut self) {
        let first = self.next + self.ready.len() as u64;
        let numbers: Vec<u64> = (first..=self.last.number).take(AT_ONCE).collect();
        let (objects, sealer) = (&*self.objects, &self.sealer);
        let records = all(AT_ONCE, &numbers, |number| read(objects, sealer, *number));
        self.ready.extend(records.into_iter().map(|record| record.unwrap_or(Err(RemoteError::Interrupted))));
    }

    fn checked(&self, record: Result<Record>) -> Result<Record> {
        let (place, name) = (self.sealer.place(), names::record(self.next));
        let record = record.map_err(|e| {
            if e.is_missing() { RemoteError::Lost { place: place.into(), name: name.clone() } } else { e }
        })?;
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
