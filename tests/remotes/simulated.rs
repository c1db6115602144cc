//! An object store in memory, and the network to it, with all that can go wrong there: delays, errors, lost answers, requests that arrive
//! after their sender has given up, outages, lists that are late, and objects that somebody has changed.

use super::world::Host;
use bytes::Bytes;
use larder::remote::{Listed, ObjectError, Objects, Outcome, Trouble, is_name};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a client waits.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    made: Duration,
}

#[derive(Debug)]
enum Late {
    PutNew(String, Bytes),
    Put(String, Bytes),
}

#[derive(Debug, Default)]
struct Contents {
    objects: BTreeMap<String, Object>,
    /// What is still on its way, by when it arrives.
    late: Vec<(Duration, Late)>,
}

impl Contents {
    fn arrive(&mut self, now: Duration) {
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at <= now).collect();
        for (at, late) in due {
            match late {
                Late::PutNew(name, bytes) => {
                    self.objects.entry(name).or_insert(Object { bytes, made: at });
                }
                Late::Put(name, bytes) => {
                    self.objects.insert(name, Object { bytes, made: at });
                }
            }
        }
    }
}

/// What all hosts see of it.
#[derive(Debug, Default)]
pub struct Bucket {
    contents: Mutex<Contents>,
    /// How long lists are late.
    pub list_lag: Duration,
}

impl Bucket {
    pub fn new(list_lag: Duration) -> Arc<Self> {
        Arc::new(Self { list_lag, ..Self::default() })
    }

    /// Changes what is there by hand.
    pub fn edit<T>(&self, edit: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> T {
        let mut contents = self.contents.lock().unwrap();
        let mut bytes =
            contents.objects.iter().map(|(name, object)| (name.clone(), object.bytes.clone())).collect();
        let result = edit(&mut bytes);
        let made = Duration::ZERO;
        contents.objects = bytes.into_iter().map(|(name, bytes)| (name, Object { bytes, made })).collect();
        result
    }

    /// All that another bucket has; its last records are not listed for now.
    pub fn put_late(&self, other: &Self, records: usize) {
        let from = other.contents.lock().unwrap();
        let mut contents = self.contents.lock().unwrap();
        let late = from.objects.keys().filter(|name| name.starts_with("log/")).rev().take(records);
        let late: Vec<&String> = late.collect();
        for (name, object) in &from.objects {
            let made = if late.contains(&name) { Duration::from_secs(1) } else { Duration::ZERO };
            contents.objects.insert(name.clone(), Object { bytes: object.bytes.clone(), made });
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.contents.lock().unwrap().objects.keys().cloned().collect()
    }
}

/// What goes wrong, in percent of all requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The store says 500 or 503, and does nothing.
    pub errors: u64,
    /// The answer is lost; the request was done.
    pub lost_answers: u64,
    /// The request arrives long after its sender has given up.
    pub late_requests: u64,
    /// The longest that a request and an answer travel, in milliseconds.
    pub delay: u64,
    /// The host is cut off from the store for a while, about once in so many requests; 0: never.
    pub outages: u64,
}

/// A host's way to the bucket.
#[derive(Debug)]
pub struct Simulated {
    bucket: Arc<Bucket>,
    host: Arc<Host>,
    faults: Faults,
    cut_until: Mutex<Duration>,
    /// What every request answers, if anything.
    broken: Mutex<Option<Trouble>>,
}

impl Simulated {
    pub fn new(bucket: &Arc<Bucket>, host: &Arc<Host>, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            bucket: Arc::clone(bucket),
            host: Arc::clone(host),
            faults,
            cut_until: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    /// From now on, every request is answered so; `None`: as it should be.
    pub fn break_with(&self, trouble: Option<Trouble>) {
        *self.broken.lock().unwrap() = trouble;
    }

    fn fail<T>(&self, trouble: Trouble, doing: &'static str, name: &str) -> Outcome<T> {
        let why = format!("{trouble:?}");
        Err(ObjectError { trouble, doing, place: self.place().into(), name: name.into(), why })
    }

    fn travel(&self) {
        self.host.maybe_pause();
        if self.faults.delay > 0 {
            self.host.world.sleep(Duration::from_millis(self.host.below(self.faults.delay)));
        }
        self.host.maybe_pause();
    }

    fn time_out<T>(&self, doing: &'static str, name: &str) -> Outcome<T> {
        self.host.world.sleep(TIMEOUT);
        self.fail(Trouble::Unreachable, doing, name)
    }

    fn ask<T>(
        &self,
        doing: &'static str,
        name: &str,
        late: impl FnOnce() -> Option<Late>,
        work: impl FnOnce(&mut Contents, Duration) -> Result<T, Trouble>,
    ) -> Outcome<T> {
        if doing != "list" && !is_name(name) {
            return self.fail(Trouble::Other, doing, name);
        }
        if let Some(trouble) = *self.broken.lock().unwrap() {
            return self.fail(trouble, doing, name);
        }
        self.travel();
        let now = self.host.world.now();
        if self.faults.outages > 0 && self.host.below(self.faults.outages) == 0 {
            *self.cut_until.lock().unwrap() = now + Duration::from_millis(self.host.below(90_000));
        }
        if *self.cut_until.lock().unwrap() > now {
            return self.time_out(doing, name);
        }
        if self.host.chance(self.faults.errors) {
            return self.fail(Trouble::Unreachable, doing, name);
        }
        if self.host.chance(self.faults.late_requests)
            && let Some(late) = late()
        {
            let arrives = now + Duration::from_millis(self.host.below(90_000));
            self.bucket.contents.lock().unwrap().late.push((arrives, late));
            return self.time_out(doing, name);
        }
        let done = {
            let mut contents = self.bucket.contents.lock().unwrap();
            contents.arrive(now);
            work(&mut contents, now)
        };
        self.travel();
        if self.host.chance(self.faults.lost_answers) {
            return self.time_out(doing, name);
        }
        done.or_else(|trouble| self.fail(trouble, doing, name))
    }
}

impl Objects for Simulated {
    fn place(&self) -> &str {
        "s3://simulated/store"
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        let (owned, copy) = (name.to_owned(), bytes.clone());
        self.ask(
            "write",
            name,
            || Some(Late::PutNew(owned, copy)),
            |contents, made| {
                if contents.objects.contains_key(name) {
                    return Err(Trouble::Exists);
                }
                contents.objects.insert(name.to_owned(), Object { bytes, made });
                Ok(())
            },
        )
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        let (owned, copy) = (name.to_owned(), bytes.clone());
        self.ask(
            "write",
            name,
            || Some(Late::Put(owned, copy)),
            |contents, made| {
                contents.objects.insert(name.to_owned(), Object { bytes, made });
                Ok(())
            },
        )
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.ask(
            "read",
            name,
            || None,
            |contents, _| {
                let object = contents.objects.get(name).ok_or(Trouble::Missing)?;
                if object.bytes.len() as u64 > most { Err(Trouble::Other) } else { Ok(object.bytes.clone()) }
            },
        )
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        self.ask(
            "read",
            name,
            || None,
            |contents, _| {
                let bytes = &contents.objects.get(name).ok_or(Trouble::Missing)?.bytes;
                let end = range.end.min(bytes.len() as u64) as usize;
                let start = range.start as usize;
                if start > end || (start == end && range.start != range.end) {
                    return Err(Trouble::Other);
                }
                Ok(bytes.slice(start..end))
            },
        )
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        self.ask(
            "read",
            name,
            || None,
            |contents, _| {
                let object = contents.objects.get(name).ok_or(Trouble::Missing)?;
                Ok(listed(name, object))
            },
        )
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        self.ask(
            "list",
            under,
            || None,
            |contents, now| {
                let seen =
                    |object: &&Object| object.made + self.bucket.list_lag <= now || object.made.is_zero();
                let all =
                    contents.objects.iter().filter(|(name, object)| name.starts_with(under) && seen(object));
                Ok(all
                    .filter(|(name, _)| name.as_str() > after)
                    .take(most)
                    .map(|(name, object)| listed(name, object))
                    .collect())
            },
        )
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        self.ask(
            "list",
            under,
            || None,
            |contents, _| {
                let below =
                    contents.objects.keys().filter_map(|name| name.strip_prefix(under)?.split_once('/'));
                let mut dirs: Vec<String> = below.map(|(dir, _)| dir.to_owned()).collect();
                dirs.dedup();
                dirs.truncate(most);
                Ok(dirs)
            },
        )
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        self.ask(
            "remove",
            name,
            || None,
            |contents, _| {
                contents.objects.remove(name);
                Ok(())
            },
        )
    }
}

fn listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.into(), bytes: object.bytes.len() as u64, modified: object.made.as_secs() as i64 }
}
