//! A limit on how often the same is said: damage that a program meets again and again must not fill the disk.

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many messages of one place in the source about one volume within [`PERIOD`] are written, and the others counted.
const MESSAGES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(60);
/// Places and volumes that are told from one another.
const PLACES: usize = 4096;
/// So much of a message that was left out is shown, in characters.
const SHOWN: usize = 200;

/// The target of messages that are never left out: parts of one report, which is rare, and useless in part.
pub(super) const WHOLE: &str = "larder::report";

/// A place in the source, by file and line, and the volume that it says something about.
type Place = (&'static str, u32, Option<Box<str>>);

/// What was left out.
#[derive(Debug)]
struct LeftOut {
    messages: u64,
    /// The first of them.
    level: Level,
    target: Box<str>,
    message: Box<str>,
}

/// What one place in the source has said lately.
#[derive(Debug)]
struct Window {
    since: Instant,
    messages: u32,
    left_out: Option<LeftOut>,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, left_out: None }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= PERIOD
    }

    /// Whether a message is to be written now, in a window that is not over.
    fn admit(&mut self, record: &Record<'_>, message: &str) -> bool {
        if self.messages < MESSAGES {
            self.messages += 1;
            return true;
        }
        let left_out = self.left_out.get_or_insert_with(|| LeftOut {
            messages: 0,
            level: record.level(),
            target: record.target().into(),
            message: message.chars().take(SHOWN).collect::<String>().into(),
        });
        left_out.messages += 1;
        false
    }
}

/// The volume that a message is about: they begin with it, or have it soon.
fn volume_in(message: &str) -> Option<Box<str>> {
    let (_, name) = message.split_once("volume \"")?;
    name.split_once('"').map(|(name, _)| name.into())
}

/// A logger that passes on what is not too much. What was asked for with `--verbose` is passed on whole.
pub(super) struct Limited<L> {
    inner: L,
    places: Mutex<HashMap<Place, Window>>,
}

impl<L: Log> Limited<L> {
    pub(super) fn new(inner: L) -> Self {
        Self { inner, places: Mutex::default() }
    }

    fn log_at(&self, record: &Record<'_>, now: Instant) {
        if !self.inner.enabled(record.metadata()) {
            return;
        }
        let is_limited = record.level() <= LevelFilter::Info && record.target() != WHOLE;
        if is_limited {
            // What was left out before comes before this.
            self.say_left_out(now, false);
            let message = record.args().to_string();
            let mut places = self.places.lock();
            let mut place =
                (record.file_static().unwrap_or(""), record.line().unwrap_or(0), volume_in(&message));
            if places.len() >= PLACES && !places.contains_key(&place) {
                place.2 = None;
            }
            if !places.entry(place).or_insert_with(|| Window::new(now)).admit(record, &message) {
                return;
            }
        }
        self.inner.log(record);
    }

    /// Says how many messages were left out by windows that are over, or by all.
    pub(super) fn say_left_out(&self, now: Instant, is_end: bool) {
        let over: Vec<LeftOut> = {
            let mut places = self.places.lock();
            let over = places.extract_if(|_, window| is_end || window.is_over(now));
            over.filter_map(|(_, window)| window.left_out).collect()
        };
        for LeftOut { messages, level, target, message } in over {
            let metadata = Metadata::builder().level(level).target(&target).build();
            let what = match messages {
                1 => "1 message like this one was left out".to_owned(),
                n => format!("{n} messages like this one were left out"),
            };
            self.inner
                .log(&Record::builder().metadata(metadata).args(format_args!("{what}: {message}")).build());
        }
    }
}

impl<L: Log> Log for Limited<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.log_at(record, Instant::now());
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            self.0.lock().push(record.args().to_string());
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_report_is_written_whole_however_many_lines_it_has_and_came_before() {
        let logger = Limited::new(Lines::default());
        for _ in 0..5 * MESSAGES {
            let line = Record::builder()
                .args(format_args!("a thread"))
                .level(Level::Error)
                .target(WHOLE)
                .file_static(Some("a.rs"))
                .line(Some(1))
                .build();
            logger.log_at(&line, Instant::now());
        }
        assert_eq!(logger.inner.0.lock().len(), 5 * MESSAGES as usize);
    }

    #[test]
    fn what_is_said_too_often_is_counted() {
        let logger = Limited::new(Lines::default());
        let start = Instant::now();
        let say = |line: u32, level: Level, text: &str, now: Instant| {
            logger.log_at(
                &Record::builder()
                    .args(format_args!("{text}"))
                    .level(level)
                    .file_static(Some("a.rs"))
                    .line(Some(line))
                    .build(),
                now,
            );
        };
        let lines = || std::mem::take(&mut *logger.inner.0.lock());
        for i in 0..10_000 {
            say(1, Level::Error, &format!("one {i}"), start);
        }
        assert_eq!(lines().len(), MESSAGES as usize);
        // Other places, and what was asked for, are not their business.
        say(2, Level::Error, "two", start);
        for _ in 0..500 {
            say(3, Level::Debug, "three", start);
        }
        assert_eq!(lines().len(), 501);
        let left_out = |n: u32, first: &str| format!("{n} messages like this one were left out: {first}");
        say(1, Level::Error, "one", start + PERIOD);
        assert_eq!(lines(), [left_out(10_000 - MESSAGES, "one 100"), "one".into()]);
        say(1, Level::Error, "one", start + PERIOD);
        assert_eq!(lines(), ["one"]);
        // Also when nothing else is said, after a while or at the end.
        for end in [false, true] {
            let now = start + 2 * PERIOD;
            (0..MESSAGES + 2).for_each(|_| say(4, Level::Warn, "four", now));
            assert_eq!(lines().len(), MESSAGES as usize);
            logger.say_left_out(now, false);
            assert!(lines().is_empty());
            logger.say_left_out(if end { now } else { now + PERIOD }, end);
            assert_eq!(lines(), [left_out(2, "four")]);
        }
        assert!(logger.places.lock().is_empty());
    }

    #[test]
    fn a_volume_of_which_much_is_said_keeps_nobody_from_hearing_of_another() {
        let logger = Limited::new(Lines::default());
        let now = Instant::now();
        let say = |volume: &str| {
            let text = format!("volume {volume:?}: it hangs");
            logger.log_at(
                &Record::builder()
                    .args(format_args!("{text}"))
                    .level(Level::Warn)
                    .file_static(Some("a.rs"))
                    .line(Some(1))
                    .build(),
                now,
            );
        };
        (0..2 * MESSAGES).for_each(|_| say("a"));
        say("b");
        assert_eq!(logger.inner.0.lock().len(), MESSAGES as usize + 1);
        assert_eq!(logger.inner.0.lock().last().unwrap(), "volume \"b\": it hangs");
        // However many there are, what is remembered of them is bounded.
        (0..2 * PLACES).for_each(|i| say(&format!("v{i}")));
        assert!(logger.places.lock().len() <= PLACES + 1);
    }
}
