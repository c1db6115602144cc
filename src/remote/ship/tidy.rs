//! Removing what nothing needs any more.

use super::super::collect::{Collect, Collected, Look, Read, look, remove};
use super::super::error::{RemoteError, Result};
use super::super::format::{ObjectSeal, PartRef, Record, part_bytes};
use super::super::log::{Log, Position};
use super::super::names;
use super::super::objects::Trouble;
use super::Shipper;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

/// Versions of the header that are looked for at a time.
const HEADERS: usize = 1000;
/// Objects that are removed at a time, where nobody says how many.
const REMOVED: usize = 256;

/// So many times as long as it took to look is paused until it is looked again.
const PAUSE: u32 = 4;

/// What stays because it was needed lately goes later, also where there is no newer image: it is looked again after this part of that time,
/// and not sooner than this.
const AGES: u32 = 4;
const AGAIN: Duration = Duration::from_secs(3600);

/// What was removed.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    /// Number of the version of the header that was in force when all before it were removed.
    header: u64,
    /// The image that was the newest when everything was removed that could be, and when that was.
    done_at: u64,
    done_when: Duration,
    /// Records that need not be read for that.
    read: Arc<Read>,
    /// It is being looked for what can be removed.
    looking: Option<Receiver<Result<Look>>>,
    /// When that was begun, and when it is to be done next, at the earliest, by itself.
    looked_at: Duration,
    next_look: Duration,
    /// What was found, and is being removed.
    look: Option<Look>,
    /// Of what the times of objects say, it is not believed that later records than this are old.
    old: Option<u64>,
    /// Parts and pieces that were put since it was begun to look, whatever their age is by the clocks of hosts.
    since: HashSet<String>,
}

impl Tidy {
    /// A record was read, or written.
    pub(super) fn note(&self, record: &Record) {
        self.read.note(record);
    }

    /// The same for one that was just written behind `before`, with these contents.
    pub(super) fn note_written(&self, at: Position, before: ObjectSeal, image: u64, names: Vec<String>) {
        self.read.add(at, before, image, names);
    }
}

impl Shipper {
    /// Removes the versions of the header before the one in force: they have key slots that were taken away, and whoever took them away is not
    /// told that this is done before it is.
    ///
    /// # Errors
    /// Those of requests. It is done with the next state, or when it is asked for the next one.
    pub(super) fn drop_older_headers(&mut self) -> Result<()> {
        let in_force = self.log.state().header.number;
        if in_force == self.tidy.header {
            return Ok(());
        }
        let objects = self.log.objects();
        // By their names first: lists can be late, and nobody looks again. (Those from which a removal was kept lie before others that are gone.)
        for number in (1..in_force).rev() {
            match objects.head(&names::header(number)) {
                Ok(_) => objects.delete(&names::header(number))?,
                Err(e) if e.trouble == Trouble::Missing => break,
                Err(e) => return Err(e.into()),
            }
        }
        loop {
            let listed = objects.list(names::HEADER, "", HEADERS)?;
            let numbers = listed.iter().filter_map(|listed| names::header_number(&listed.name));
            let older: Vec<u64> = numbers.filter(|number| *number < in_force).collect();
            for number in &older {
                objects.delete(&names::header(*number))?;
            }
            if older.len() < HEADERS {
                break;
            }
        }
        self.tidy.header = in_force;
        Ok(())
    }

    /// Removes what neither the newest state needs nor one that was the newest within `options.min_age`; nothing if it was looked for since
    /// the newest image was made. `None` then.
    ///
    /// # Errors
    /// Those of requests and of opening.
    pub fn collect(&mut self, options: Collect) -> Result<Option<Collected>> {
        let Some((log, read, spare)) = self.begin_look(options) else { return Ok(None) };
        let result = look(&log, &read, (spare, self.tidy.old), options);
        self.found(result)?;
        let mut all = Collected::default();
        while let Some(some) = self.remove_some(REMOVED)? {
            all.objects += some.objects;
            all.bytes += some.bytes;
            all.is_done = some.is_done;
        }
        Ok(Some(all))
    }

    /// The same, a little of it each time, which takes little time: it is looked for in a thread.
    ///
    /// # Errors
    /// As [`Shipper::collect`]; and when the host has no thread to give.
    pub fn collect_some(&mut self, options: Collect) -> Result<Option<Collected>> {
        self.collect_few(options, REMOVED)
    }

    /// The same, `count` objects each time at most.
    ///
    /// # Errors
    /// As [`Shipper::collect_some`].
    pub fn collect_few(&mut self, options: Collect, count: usize) -> Result<Option<Collected>> {
        if let Some(looking) = &self.tidy.looking {
            let result = match looking.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => Err(RemoteError::Interrupted),
            };
            self.tidy.looking = None;
            let now = self.clock.now();
            self.tidy.next_look =
                now.saturating_add(now.saturating_sub(self.tidy.looked_at).saturating_mul(PAUSE));
            self.found(result)?;
        }
        if self.tidy.look.is_some() {
            return self.remove_some(count);
        }
        if self.clock.now() < self.tidy.next_look {
            return Ok(None);
        }
        if let Some((log, read, spare)) = self.begin_look(options) {
            self.tidy.looked_at = self.clock.now();
            let (send, receive) = std::sync::mpsc::sync_channel(1);
            let old = self.tidy.old;
            let run = move || drop(send.send(look(&log, &read, (spare, old), options)));
            let thread = std::thread::Builder::new().name("larder-collect".into()).spawn(run);
            thread.map_err(|e| RemoteError::host("cannot start a thread", &e))?;
            self.tidy.looking = Some(receive);
        }
        Ok(None)
    }

    /// From now on, records later than `record` are not believed to be old, whatever the times of objects say: by a clock that nobody can set,
    /// they are not.
    pub fn none_is_older_than(&mut self, record: u64) {
        self.tidy.old = Some(record);
    }

    /// What it takes to look for what is not needed, where there may be something.
    fn begin_look(&mut self, options: Collect) -> Option<(Log, Arc<Read>, Vec<PartRef>)> {
        let image = self.log.state().image;
        let again = self.tidy.done_when.saturating_add((options.min_age / AGES).max(AGAIN));
        let is_done = image == self.tidy.done_at && self.clock.now() < again;
        if image == 0 || is_done || self.log.is_pending() {
            return None;
        }
        self.tidy.since.clear();
        let spare = self.spare.parts().into_keys().collect();
        Some((self.log.to_read(), Arc::clone(&self.tidy.read), spare))
    }

    fn found(&mut self, result: Result<Look>) -> Result<()> {
        match result {
            Ok(look) => self.tidy.look = Some(look),
            Err(e) => {
                // It is not tried again at once: much is read for it.
                (self.tidy.done_at, self.tidy.done_when) = (self.log.state().image, self.clock.now());
                return Err(e);
            }
        }
        Ok(())
    }

    /// `None` if there is nothing left of what was found.
    fn remove_some(&mut self, count: usize) -> Result<Option<Collected>> {
        if self.log.is_pending() {
            return Ok(None);
        }
        let Some(mut look) = self.tidy.look.take() else { return Ok(None) };
        // What is known to be there is not put again when it is needed.
        let mut stay: HashSet<String> = self.pieces.iter().map(names::piece).collect();
        stay.extend(self.spare.parts().keys().map(names::part));
        stay.extend(self.tidy.since.iter().cloned());
        let result = remove(&self.log, &mut look, &|name| stay.contains(name), count, &*self.clock);
        let now = self.clock.now();
        let done = (look.image, now);
        let some = result.inspect_err(|_| (self.tidy.done_at, self.tidy.done_when) = done)?;
        if some.is_done {
            (self.tidy.done_at, self.tidy.done_when) = done;
        }
        if !look.is_over() {
            self.tidy.look = Some(look);
        }
        Ok(Some(some))
    }

    /// A part was put: it counts as written, and may be needed from now on.
    pub(super) fn note_part(&mut self, part: &PartRef) {
        self.written += part_bytes(part.count);
        self.note_put(names::part(part));
    }

    /// A part or a piece was put: it may be needed from now on.
    pub(super) fn note_put(&mut self, name: String) {
        // (Who begins to look later finds it among what is needed, or is told of it.)
        if self.tidy.looking.is_some() || self.tidy.look.is_some() {
            self.tidy.since.insert(name);
        }
    }
}
