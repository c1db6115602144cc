//! A limit on how often the same is said: damage that a program meets again and again must not fill the disk.

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many messages of one place in the source within [`PERIOD`] are written, and the others counted.
const MESSAGES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(60);

/// The target of messages that are never left out: parts of one report, which is rare, and useless in part.
pub(super) const WHOLE: &str = "larder::report";

/// What one place in the source has said lately.
#[derive(Debug)]
struct Window {
    since: Instant,
    messages: u32,
    left_out: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, left_out: 0 }
    }

    /// Whether a message is to be written now, and how many before it were not; `None` if it is not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let left_out = match now.saturating_duration_since(self.since) >= PERIOD {
            true => std::mem::replace(self, Self::new(now)).left_out,
            false => 0,
        };
        if self.messages == MESSAGES {
            self.left_out += 1;
            return None;
        }
        self.messages += 1;
        Some(left_out)
    }
}

/// A logger that passes on what is not too much. What was asked for with `--verbose` is passed on whole.
pub(super) struct Limited<L> {
    inner: L,
    /// By file and line, of which there are as many as the program has.
    places: Mutex<HashMap<(&'static str, u32), Window>>,
}

impl<L: Log> Limited<L> {
    pub(super) fn new(inner: L) -> Self {
        Self { inner, places: Mutex::default() }
    }

    fn log_at(&self, record: &Record<'_>, now: Instant) {
        if !self.inner.enabled(record.metadata()) {
            return;
        }
        let mut left_out = 0;
        if record.level() <= LevelFilter::Info && record.target() != WHOLE {
            let place = (record.file_static().unwrap_or(""), record.line().unwrap_or(0));
            let mut places = self.places.lock();
            match places.entry(place).or_insert_with(|| Window::new(now)).admit(now) {
                Some(count) => left_out = count,
                None => return,
            }
        }
        if left_out > 0 {
            self.inner.log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!("{left_out} messages like the next one were left out"))
                    .build(),
            );
        }
        self.inner.log(record);
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
    use log::Level;

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
        let say = |line: u32, level: Level, now: Instant| {
            logger.log_at(
                &Record::builder()
                    .args(format_args!("{line}"))
                    .level(level)
                    .file_static(Some("a.rs"))
                    .line(Some(line))
                    .build(),
                now,
            );
        };
        let lines = || logger.inner.0.lock().clone();
        for _ in 0..10_000 {
            say(1, Level::Error, start);
        }
        assert_eq!(lines().len(), MESSAGES as usize);
        // Other places, and what was asked for, are not their business.
        say(2, Level::Error, start);
        for _ in 0..500 {
            say(3, Level::Debug, start);
        }
        assert_eq!(lines().len(), MESSAGES as usize + 501);
        say(1, Level::Error, start + PERIOD);
        let left_out = format!("{} messages like the next one were left out", 10_000 - MESSAGES);
        assert_eq!(lines()[MESSAGES as usize + 501..], [left_out, "1".into()]);
        say(1, Level::Error, start + PERIOD);
        assert_eq!(lines().last().unwrap(), "1");
    }
}
