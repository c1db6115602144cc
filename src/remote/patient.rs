//! Trying again.

use super::clock::Clock;
use super::deadline::Deadlines;
use super::objects::{Listed, Objects, Outcome, Trouble, failed};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How patient to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long to wait before the second attempt; each further one waits twice as long, at least half of it.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// No attempt begins later than this after the first one.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            most: Duration::from_secs(5),
            total: Duration::from_secs(30),
        }
    }
}

/// Repeats requests that fail as [`Trouble::Unreachable`], for a while; and finds out what became of a [`Objects::put_new`] whose answer was
/// lost.
#[derive(Debug)]
pub struct Patient {
    inner: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
    patience: Patience,
    deadlines: Deadlines,
}

impl Patient {
    /// Patience with `inner`.
    pub fn new(inner: Arc<dyn Objects>, clock: Arc<dyn Clock>, patience: Patience) -> Self {
        Self::until(inner, clock, patience, Deadlines::default())
    }

    /// The same, until a deadline: no attempt begins later, and every request is [`Trouble::Unreachable`] then.
    pub fn until(
        inner: Arc<dyn Objects>,
        clock: Arc<dyn Clock>,
        patience: Patience,
        deadlines: Deadlines,
    ) -> Self {
        Self { inner, clock, patience, deadlines }
    }

    fn attempts<T>(
        &self,
        (doing, name): (&'static str, &str),
        mut attempt: impl FnMut() -> Outcome<T>,
    ) -> Outcome<T> {
        let started = self.clock.now();
        let deadline = self.deadlines.of(doing, name);
        let mut pause = self.patience.first;
        if deadline.is_past(started) {
            return Err(failed(Trouble::Unreachable, doing, self.place(), name, "the time for it is over"));
        }
        loop {
            let outcome = attempt();
            let away = outcome.as_ref().err().filter(|e| e.trouble == Trouble::Unreachable);
            self.deadlines.all.note(self.clock.now(), away);
            match outcome {
                Err(e) if e.trouble == Trouble::Unreachable => {
                    let waited = pause / 2 + pause.mul_f64(f64::from(chance()) / 512.0);
                    if self.clock.now().saturating_sub(started) + waited > self.patience.total {
                        return Err(e);
                    }
                    log::debug!("{e}; trying again");
                    if !deadline.sleep(&*self.clock, waited) {
                        return Err(e);
                    }
                    pause = (pause * 2).min(self.patience.most);
                }
                outcome => return outcome,
            }
        }
    }
}

/// A random byte, so that many do not try again at once.
fn chance() -> u8 {
    let mut byte = [0];
    // Without randomness, all wait equally long.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

impl Objects for Patient {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.attempts(("write", name), || {
            let error = match self.inner.put_new(name, bytes.clone()) {
                Err(e) if e.trouble == Trouble::Exists => e,
                outcome => return outcome,
            };
            // Perhaps it is what this attempt or one before it has written: object stores also say that of a request that was sent twice
            // on the way.
            match self.inner.get(name, bytes.len() as u64) {
                Ok(there) if there == bytes => Ok(()),
                // It is another one: longer, or with other contents.
                Ok(_) => Err(error),
                Err(e) if e.trouble == Trouble::Other => Err(error),
                // Somebody is just writing it, or just removed it.
                Err(e) if e.trouble == Trouble::Missing => {
                    let why = "another request for it is under way";
                    Err(failed(Trouble::Unreachable, "write", self.place(), name, why))
                }
                Err(e) => Err(e),
            }
        })
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.attempts(("write", name), || self.inner.put(name, bytes.clone()))
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.attempts(("read", name), || self.inner.get(name, most))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.attempts(("read", name), || self.inner.get_range(name, range.clone()))
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.attempts(("read", name), || self.inner.head(name))
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.attempts(("list", under), || self.inner.list(under, after, most))
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.attempts(("list", under), || self.inner.list_dirs(under, most))
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.attempts(("remove", name), || self.inner.delete(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Waited;
    use super::*;

    /// It was known only when the request was given up, half a minute after the remote had gone away.
    #[test]
    fn that_a_remote_is_away_is_known_while_it_is_tried() {
        let clock = Arc::new(Waited::default());
        let deadlines = Deadlines::default();
        let away = Arc::new(super::super::directory::Directory::new(std::path::Path::new("/nowhere")));
        let patience = Patience::default();
        let patient = Patient::until(away, Arc::clone(&clock) as Arc<dyn Clock>, patience, deadlines.clone());
        let mut known = Vec::new();
        let outcome: Outcome<()> = patient.attempts(("read", "x"), || {
            let waited = *clock.0.lock();
            known.push((waited, deadlines.all.failing(clock.now())));
            Err(failed(Trouble::Unreachable, "read", "there", "x", "it is a test"))
        });
        assert!(outcome.is_err() && known.len() > 5);
        for (when, why) in &known {
            let is_known = why.as_ref().is_some_and(|why| why.contains("it is a test"));
            // (The first attempts end at once.)
            assert_eq!(is_known, *when >= Duration::from_secs(2), "{when:?} {why:?}");
        }
        patient.attempts(("read", "x"), || Ok(())).unwrap();
        assert_eq!(deadlines.all.failing(clock.now()), None);
        // One that fails and succeeds then says nothing.
        let mut left = 2;
        let once = patient.attempts(("read", "x"), || {
            left -= 1;
            assert_eq!(deadlines.all.failing(clock.now()), None);
            if left > 0 { Err(failed(Trouble::Unreachable, "read", "there", "x", "no")) } else { Ok(()) }
        });
        once.unwrap();
    }
}
