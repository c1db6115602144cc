//! Which snapshots rules keep, in the words of restic's `forget`, and with their exact meaning there:
//! - Snapshots are looked at from the newest to the oldest. Of each hour, day, ... of the calendar of this host, the newest counts,
//!   and so many of them are kept. While a count is not used up, the oldest of all snapshots is kept as well.
//! - What is *within* a time is within it of the newest snapshot, not of now, so that nothing goes for nothing coming any more.
//! - A label keeps its snapshot, and what a label keeps counts like all others.

use crate::volume::SnapshotInfo;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};
use std::fmt;
use std::str::FromStr;

/// How many snapshots of a kind are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// So many.
    AtMost(u32),
    /// All.
    Unlimited,
    /// None for being of this kind.
    #[default]
    None,
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) => Ok(Self::None),
            Ok(count) => Ok(Self::AtMost(count)),
            Err(_) if matches!(text, "unlimited" | "-1") => Ok(Self::Unlimited),
            Err(_) => Err(format!("{text:?} is not a number of snapshots; write one, or `unlimited`")),
        }
    }
}

/// A time of the calendar: `1y5m7d2h`. A month is as long as the one before the newest snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    years: i32,
    months: i32,
    days: i32,
    hours: i32,
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: i32 = 100_000;
        let bad = || {
            format!("{text:?} is not a length of time; write it like 1y5m7d2h (years, months, days, hours)")
        };
        let (mut within, mut rest) = (Self::default(), text.trim());
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number = rest[..end].parse().ok().filter(|number| *number <= MOST).ok_or_else(bad)?;
            let part = match rest.as_bytes()[end] {
                b'y' => &mut within.years,
                b'm' => &mut within.months,
                b'd' => &mut within.days,
                b'h' => &mut within.hours,
                _ => return Err(bad()),
            };
            *part = number;
            rest = &rest[end + 1..];
        }
        if within == Self::default() { Err(bad()) } else { Ok(within) }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts
            .iter()
            .filter(|(number, _)| *number != 0)
            .try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl Within {
    /// So long before a moment; `None` if that is before all time.
    fn before(self, moment: &Zoned) -> Option<Timestamp> {
        // The day of a month that has no such day is one of the next month, as Go has it: a month before 31 March is 3 March.
        let months =
            i32::from(moment.year()) * 12 + i32::from(moment.month()) - 1 - self.years * 12 - self.months;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        let first = Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, 1).ok()?;
        let days = Span::new().try_days(i64::from(moment.day()) - 1 - i64::from(self.days)).ok()?;
        let day = first.checked_add(days).ok()?;
        let then = day.to_datetime(moment.time()).to_zoned(moment.time_zone().clone()).ok()?;
        then.timestamp().checked_sub(SignedDuration::from_hours(self.hours.into())).ok()
    }
}

/// Labels that a snapshot has to have all of: `KEY`, `KEY=VALUE`, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<(String, Option<String>)>);

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = |text: &str| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        let labels: Vec<_> = text.split(',').map(label).collect();
        match labels.iter().any(|(key, _)| key.is_empty()) {
            true => {
                Err(format!("{text:?} does not name a label; write it as KEY, KEY=VALUE or KEY,KEY=VALUE"))
            }
            false => Ok(Self(labels)),
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match value {
                Some(value) => write!(f, "{comma}{key}={value}")?,
                None => write!(f, "{comma}{key}")?,
            }
        }
        Ok(())
    }
}

impl Labels {
    /// Whether a snapshot has them all.
    pub fn are_of(&self, snapshot: &SnapshotInfo) -> bool {
        self.0.iter().all(|(key, value)| {
            snapshot.labels.get(key).is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
        })
    }
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// The newest.
    pub last: Count,
    /// Hours.
    pub hourly: Count,
    /// Days.
    pub daily: Count,
    /// Weeks, as ISO 8601 has them.
    pub weekly: Count,
    /// Months.
    pub monthly: Count,
    /// Years.
    pub yearly: Count,
    /// All within this time of the newest.
    pub within: Option<Within>,
    /// The newest of each hour within this time.
    pub within_hourly: Option<Within>,
    /// Of each day.
    pub within_daily: Option<Within>,
    /// Of each week.
    pub within_weekly: Option<Within>,
    /// Of each month.
    pub within_monthly: Option<Within>,
    /// Of each year.
    pub within_yearly: Option<Within>,
    /// All that have the labels of one of these.
    pub labels: Vec<Labels>,
}

/// What the rules say of a snapshot.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a SnapshotInfo,
    /// Why it is kept; it is not if there is no reason.
    pub reasons: Vec<String>,
}

/// What two snapshots have in common, if they are of the same hour, say.
type Bucket = (i32, i32);

/// Of the snapshot with this number, made at this time.
type Bucketing = fn(usize, &Zoned) -> Bucket;

fn always(number: usize, _: &Zoned) -> Bucket {
    (i32::try_from(number).unwrap_or(i32::MAX), 0)
}

fn hour(_: usize, time: &Zoned) -> Bucket {
    let (_, day) = day(0, time);
    (time.year().into(), day * 100 + i32::from(time.hour()))
}

fn day(_: usize, time: &Zoned) -> Bucket {
    (time.year().into(), i32::from(time.month()) * 100 + i32::from(time.day()))
}

fn week(_: usize, time: &Zoned) -> Bucket {
    let week = time.date().iso_week_date();
    (week.year().into(), week.week().into())
}

fn month(_: usize, time: &Zoned) -> Bucket {
    (time.year().into(), time.month().into())
}

fn year(_: usize, time: &Zoned) -> Bucket {
    (time.year().into(), 0)
}

impl KeepRules {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What they say of snapshots, the newest first. `now`: in seconds since 1970.
    pub fn apply<'a>(
        &self,
        snapshots: impl IntoIterator<Item = &'a SnapshotInfo>,
        now: u64,
        zone: &TimeZone,
    ) -> Vec<Verdict<'a>> {
        let time = |seconds: u64| {
            let timestamp = Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX));
            timestamp.unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
        };
        // They come the oldest first; of two of one second, the later is the newer.
        let mut newest_first: Vec<&SnapshotInfo> = snapshots.into_iter().collect();
        newest_first.reverse();
        newest_first.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created));
        // One from the future, by a clock that was wrong, is no reason to take all others for old.
        let latest =
            newest_first.iter().find(|snapshot| snapshot.created <= now).map_or(0, |latest| latest.created);
        let latest = time(latest);
        let since =
            |within: Option<Within>| within.map(|within| within.before(&latest).unwrap_or(Timestamp::MIN));

        let mut counted: [(Count, Bucketing, &str, Option<Bucket>); 6] = [
            (self.last, always, "last snapshot", None),
            (self.hourly, hour, "hourly snapshot", None),
            (self.daily, day, "daily snapshot", None),
            (self.weekly, week, "weekly snapshot", None),
            (self.monthly, month, "monthly snapshot", None),
            (self.yearly, year, "yearly snapshot", None),
        ];
        let mut timed: [(Option<Within>, Bucketing, &str, Option<Bucket>); 5] = [
            (self.within_hourly, hour, "hourly", None),
            (self.within_daily, day, "daily", None),
            (self.within_weekly, week, "weekly", None),
            (self.within_monthly, month, "monthly", None),
            (self.within_yearly, year, "yearly", None),
        ];
        let oldest = newest_first.len().saturating_sub(1);
        let judge = |(number, snapshot): (usize, &&'a SnapshotInfo)| {
            let made = time(snapshot.created);
            let mut reasons: Vec<String> = self
                .labels
                .iter()
                .filter(|labels| labels.are_of(snapshot))
                .map(|labels| format!("has {labels}"))
                .collect();
            if let Some(within) = self.within
                && since(self.within).is_some_and(|since| made.timestamp() > since)
            {
                reasons.push(format!("within {within}"));
            }
            // Another bucket than that of the snapshot before.
            let counts = |bucketing: Bucketing, last: &mut Option<Bucket>| {
                let bucket = bucketing(number, &made);
                let is_new = last.replace(bucket) != Some(bucket);
                (is_new || number == oldest).then_some(if is_new { "" } else { "oldest " })
            };
            for (count, bucketing, what, last) in &mut counted {
                if *count != Count::None
                    && let Some(oldest) = counts(*bucketing, last)
                {
                    if let Count::AtMost(left) = count {
                        *count = if *left > 1 { Count::AtMost(*left - 1) } else { Count::None };
                    }
                    reasons.push(format!("{oldest}{what}"));
                }
            }
            for (within, bucketing, what, last) in &mut timed {
                if let Some(within) = *within
                    && since(Some(within)).is_some_and(|since| made.timestamp() > since)
                    && let Some(oldest) = counts(*bucketing, last)
                {
                    reasons.push(format!("{oldest}{what} within {within}"));
                }
            }
            Verdict { snapshot, reasons }
        };
        newest_first.iter().enumerate().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(times: &[&str], zone: &TimeZone) -> Vec<SnapshotInfo> {
        let snapshot = |text: &&str| {
            let time: jiff::civil::DateTime = text.parse().unwrap();
            let created = time.to_zoned(zone.clone()).unwrap().timestamp().as_second() as u64;
            SnapshotInfo { name: text.replace([':', ' '], "."), created, ..SnapshotInfo::default() }
        };
        times.iter().map(snapshot).collect()
    }

    fn kept(rules: &KeepRules, times: &[&str]) -> Vec<String> {
        let zone = TimeZone::UTC;
        let snapshots = made(times, &zone);
        let now = made(&["2030-01-01 00:00:00"], &zone)[0].created;
        let verdicts = rules.apply(&snapshots, now, &zone);
        let kept = verdicts.into_iter().filter(|verdict| !verdict.reasons.is_empty());
        kept.map(|verdict| format!("{}: {}", verdict.snapshot.name, verdict.reasons.join(", "))).collect()
    }

    #[test]
    fn the_oldest_stays_while_a_count_is_not_used_up() {
        let times =
            ["2026-01-01 10:00:00", "2026-01-01 11:00:00", "2026-01-02 10:00:00", "2026-01-02 12:00:00"];
        let daily = |count| KeepRules { daily: count, ..KeepRules::default() };
        let two = ["2026-01-02.12.00.00: daily snapshot", "2026-01-01.11.00.00: daily snapshot"];
        assert_eq!(kept(&daily(Count::AtMost(2)), &times), two);
        let three = [&two[..], &["2026-01-01.10.00.00: oldest daily snapshot"]].concat();
        assert_eq!(kept(&daily(Count::AtMost(3)), &times), three);
        assert_eq!(kept(&daily(Count::Unlimited), &times), three);
        assert_eq!(kept(&KeepRules { last: Count::AtMost(1), ..KeepRules::default() }, &times).len(), 1);
        assert_eq!(kept(&daily(Count::AtMost(1)), &[]), [""; 0]);
    }

    #[test]
    fn a_time_is_before_the_newest_that_is_not_of_the_future() {
        let within = |text: &str| KeepRules { within: Some(text.parse().unwrap()), ..KeepRules::default() };
        let times =
            ["2025-03-03 12:00:00", "2025-03-03 12:00:01", "2025-03-31 12:00:00", "2031-01-01 00:00:00"];
        // There is no 31 February.
        let names: Vec<String> = kept(&within("1m"), &times);
        assert_eq!(
            names,
            [
                "2031-01-01.00.00.00: within 1m",
                "2025-03-31.12.00.00: within 1m",
                "2025-03-03.12.00.01: within 1m"
            ]
        );
        assert_eq!(kept(&within("1m1h"), &times).len(), 4);
        assert_eq!(kept(&within("27d23h"), &times).len(), 2);
    }

    #[test]
    fn a_day_begins_when_the_calendar_of_the_host_says_so() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        // 23:30 and 00:30 there are the same day in UTC.
        let snapshots = made(&["2026-07-01 23:30:00", "2026-07-02 00:30:00"], &zone);
        let rules = KeepRules { within_daily: Some("7d".parse().unwrap()), ..KeepRules::default() };
        let keeps = |zone: &TimeZone| {
            let verdicts = rules.apply(&snapshots, u64::MAX, zone);
            verdicts.into_iter().map(|verdict| verdict.reasons.join(",")).collect::<Vec<_>>()
        };
        assert_eq!(keeps(&zone), ["daily within 7d", "daily within 7d"]);
        assert_eq!(keeps(&TimeZone::UTC), ["daily within 7d", "oldest daily within 7d"]);
    }

    #[test]
    fn labels_keep_all_together_or_one_of_several() {
        let zone = TimeZone::UTC;
        let mut snapshots =
            made(&["2026-01-01 00:00:00", "2026-01-02 00:00:00", "2026-01-03 00:00:00"], &zone);
        snapshots[0].labels.insert("a".into(), "1".into());
        snapshots[1].labels.extend([("a".into(), "2".into()), ("b".into(), String::new())]);
        let kept = |labels: &[&str]| {
            let labels = labels.iter().map(|text| text.parse().unwrap()).collect();
            let rules = KeepRules { labels, ..KeepRules::default() };
            let verdicts = rules.apply(&snapshots, u64::MAX, &zone);
            verdicts.iter().filter(|verdict| !verdict.reasons.is_empty()).count()
        };
        for (labels, count) in
            [(&["a"][..], 2), (&["a=1"], 1), (&["a,b"], 1), (&["a=1,b"], 0), (&["a=1", "b"], 2), (&["c"], 0)]
        {
            assert_eq!(kept(labels), count, "{labels:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in ["", "5", "d", "5w", "1d5", "-1d", "0d", "999999999y", "9999999999999d"] {
            assert!(bad.parse::<Within>().is_err(), "{bad}");
        }
        assert_eq!("2h1y".parse::<Within>().unwrap().to_string(), "1y2h");
        // Before all time.
        assert_eq!(
            kept(
                &KeepRules { within: "100000y".parse().ok(), ..KeepRules::default() },
                &["2026-01-01 00:00:00"]
            )
            .len(),
            1
        );
        assert_eq!("unlimited".parse(), Ok(Count::Unlimited));
        assert!("-2".parse::<Count>().is_err() && "x".parse::<Count>().is_err());
        assert!("a,,b".parse::<Labels>().is_err() && "=x".parse::<Labels>().is_err());
    }
}
