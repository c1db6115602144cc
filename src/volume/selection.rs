//! Which snapshots of a volume are meant: one, those whose names fit a pattern, or those from one to another.

use super::error::{Result, VolumeError};
use super::info::SnapshotInfo;
use super::target::{check_snapshot, no_snapshot};
use crate::exit_code::Exit;
use crate::root::check_name;

/// Snapshots of a volume, by name: `VOLUME@NAME`, `VOLUME@PATTERN` with `*`, `?` and `[a-z]` as in a shell, or
/// `VOLUME@FIRST%LAST` with all that were made between two, these included; without FIRST from the oldest on, without LAST up to
/// the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The volume.
    pub volume: String,
    which: Which,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    All,
    One(String),
    Pattern(String),
    Range { first: Option<String>, last: Option<String> },
}

impl Selection {
    /// Reads `VOLUME@NAME`, `VOLUME@PATTERN` or `VOLUME@FIRST%LAST`.
    ///
    /// # Errors
    /// `Usage` for what no snapshots can be meant by.
    pub fn parse(text: &str) -> Result<Self> {
        if !text.contains('@') {
            return Err(VolumeError::new(
                Exit::Usage,
                format!("{text:?} does not name a snapshot; write it as {text}@SNAPSHOT or {text}@PATTERN"),
            ));
        }
        Self::parse_any(text)
    }

    /// The same, or `VOLUME` for all of its snapshots.
    ///
    /// # Errors
    /// As [`Selection::parse`].
    pub fn parse_any(text: &str) -> Result<Self> {
        let (volume, which) = match text.split_once('@') {
            None => (text, Which::All),
            Some((volume, which)) => (volume, Which::parse(which)?),
        };
        check_name(volume).map_err(|e| VolumeError::new(Exit::Usage, e))?;
        Ok(Self { volume: volume.to_owned(), which })
    }

    /// The name of the snapshot, if one is meant and called by it.
    pub fn name(&self) -> Option<&str> {
        match &self.which {
            Which::One(name) => Some(name),
            _ => None,
        }
    }

    /// Those that are meant, of all snapshots of the volume, the oldest first. A pattern may mean none.
    ///
    /// # Errors
    /// `NoVolume` when one that is named is not there, `Usage` for a range that ends before it begins.
    pub fn choose<'a>(&self, snapshots: &'a [SnapshotInfo]) -> Result<Vec<&'a SnapshotInfo>> {
        let place = |name: &str| {
            let found = snapshots.iter().position(|snapshot| snapshot.name == name);
            found.ok_or_else(|| no_snapshot(&self.volume, name))
        };
        match &self.which {
            Which::All => Ok(snapshots.iter().collect()),
            Which::One(name) => Ok(vec![&snapshots[place(name)?]]),
            Which::Pattern(pattern) => {
                let fits = |snapshot: &&SnapshotInfo| fits(pattern.as_bytes(), snapshot.name.as_bytes());
                Ok(snapshots.iter().filter(fits).collect())
            }
            Which::Range { first, last } => {
                let begin = first.as_deref().map_or(Ok(0), place)?;
                let end = last.as_deref().map_or(Ok(snapshots.len()), |name| place(name).map(|at| at + 1))?;
                let (Some(chosen), true) = (snapshots.get(begin..end), begin <= end) else {
                    let (first, last) = (first.as_deref().unwrap_or(""), last.as_deref().unwrap_or(""));
                    let what = format!(
                        "snapshot {last} is older than {first}; write {}@{last}%{first}",
                        self.volume
                    );
                    return Err(VolumeError::new(Exit::Usage, what));
                };
                Ok(chosen.iter().collect())
            }
        }
    }
}

impl Which {
    fn parse(text: &str) -> Result<Self> {
        if let Some((first, last)) = text.split_once('%') {
            let end = |name: &str| match name {
                "" => Ok(None),
                name => check_snapshot(name).map(|()| Some(name.to_owned())),
            };
            return Ok(Self::Range { first: end(first)?, last: end(last)? });
        }
        if !text.contains(['*', '?', '[']) {
            return check_snapshot(text).map(|()| Self::One(text.to_owned()));
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "_.-*?[]!^".contains(c);
        if !text.chars().all(known) || !is_closed(text.as_bytes()) {
            return Err(VolumeError::new(
                Exit::Usage,
                format!(
                    "{text:?} is not a valid pattern: names are matched by *, ? and [a-z], as in a shell"
                ),
            ));
        }
        Ok(Self::Pattern(text.to_owned()))
    }
}

/// Whether each class of a pattern ends.
fn is_closed(mut pattern: &[u8]) -> bool {
    while let Some((first, rest)) = pattern.split_first() {
        pattern = match first {
            b'[' => match class(rest) {
                Some((_, _, rest)) => rest,
                None => return false,
            },
            _ => rest,
        };
    }
    true
}

/// What is in a class, whether it is the opposite that fits, and what follows the class. What stands before is the `[`.
fn class(pattern: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let opposite = matches!(pattern.first(), Some(b'!' | b'^'));
    let members = &pattern[usize::from(opposite)..];
    // A `]` that comes first is a member.
    let end = members.iter().skip(1).position(|b| *b == b']')? + 1;
    Some((&members[..end], opposite, &members[end + 1..]))
}

fn is_member(mut members: &[u8], byte: u8) -> bool {
    while let Some((first, rest)) = members.split_first() {
        if let [b'-', last, more @ ..] = rest {
            if (*first..=*last).contains(&byte) {
                return true;
            }
            members = more;
        } else {
            if *first == byte {
                return true;
            }
            members = rest;
        }
    }
    false
}

/// Whether a name fits a pattern. Takes no longer than the product of their lengths, whatever the pattern.
fn fits(mut pattern: &[u8], mut name: &[u8]) -> bool {
    // Where to go on if what follows the last `*` does not fit: that takes one byte more then.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match (pattern.split_first(), name.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                again = Some((rest, name));
                Some((rest, name))
            }
            (Some((b'?', rest)), Some((_, more))) => Some((rest, more)),
            (Some((b'[', rest)), Some((byte, more))) => class(rest)
                .filter(|(members, opposite, _)| is_member(members, *byte) != *opposite)
                .map(|(_, _, rest)| (rest, more)),
            (Some((wanted, rest)), Some((byte, more))) if wanted == byte => Some((rest, more)),
            _ => None,
        };
        (pattern, name) = match (step, &mut again) {
            (Some(step), _) => step,
            (None, Some((rest, from))) => match from.split_first() {
                Some((_, more)) => {
                    *from = more;
                    (*rest, more)
                }
                None => return false,
            },
            (None, None) => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        let long = "a".repeat(128);
        for (pattern, name, fit) in [
            ("*", "", true),
            ("*", "a", true),
            ("daily-*", "daily-1", true),
            ("daily-*", "weekly-1", false),
            ("*-1", "daily-1", true),
            ("*-1", "daily-11", false),
            ("*-1", "daily-12", false),
            ("a*b*c", "axxbxxbyc", true),
            ("a*b*c", "axxbxxby", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab]1", "b1", true),
            ("[ab]1", "c1", false),
            ("[!ab]1", "c1", true),
            ("[^ab]1", "a1", false),
            ("d-[0-3]*", "d-31", true),
            ("d-[0-3]*", "d-41", false),
            ("[a-]x", "-x", true),
            ("[]a]", "a", true),
            ("*a*a*a*a*a*a*a*a*a*a*a*a*b", long.as_str(), false),
        ] {
            assert!(is_closed(pattern.as_bytes()), "{pattern}");
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn what_means_no_snapshots_is_refused() {
        for bad in [
            "", "v", "@a", "v@", "v@a@b", "v@[a", "v@a/*", "v@*\n", "v@*%b", "v@a%b%c", "../v@*", "v@[",
            "v@[]",
        ] {
            assert!(Selection::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["v@a", "v@*", "v@a%b", "v@%", "v@a%", "v@%b", "v@[a-z]*"] {
            assert!(Selection::parse(good).is_ok(), "{good:?}");
        }
        assert_eq!(Selection::parse("v@a").unwrap().name(), Some("a"));
        assert_eq!(Selection::parse("v@a*").unwrap().name(), None);
    }

    #[test]
    fn ranges_go_by_age_and_include_their_ends() {
        // Not by name, and not by a clock that was set back.
        let all: Vec<SnapshotInfo> = [("z", 9), ("b", 3), ("a", 5), ("y", 5)]
            .map(|(name, created)| SnapshotInfo { name: name.into(), created, ..SnapshotInfo::default() })
            .into();
        let chosen = |text: &str| {
            let chosen = Selection::parse_any(text).unwrap().choose(&all);
            chosen.map(|chosen| chosen.iter().map(|s| s.name.as_str()).collect::<String>())
        };
        for (text, names) in [
            ("v@b%y", "bay"),
            ("v@%b", "zb"),
            ("v@a%", "ay"),
            ("v@%", "zbay"),
            ("v@a%a", "a"),
            ("v", "zbay"),
            ("v@[zy]", "zy"),
            ("v@x*", ""),
        ] {
            assert_eq!(chosen(text).unwrap(), names, "{text}");
        }
        assert!(chosen("v@y%z").unwrap_err().message.contains("v@z%y"));
        assert_eq!(chosen("v@z%x").unwrap_err().exit, Exit::NoVolume);
        assert_eq!(chosen("v@x").unwrap_err().exit, Exit::NoVolume);
    }
}
