//! CPUs, as the kernel lists them.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

const DIR: &str = "/sys/devices/system/cpu";

/// The CPUs of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cpus(Vec<RangeInclusive<u16>>);

impl Cpus {
    /// Those that there can ever be: the kernel wants a queue for each.
    pub(super) fn possible() -> io::Result<Self> {
        Self::of("possible")
    }

    /// Those that there are.
    pub(super) fn online() -> io::Result<Self> {
        Self::of("online")
    }

    fn of(file: &str) -> io::Result<Self> {
        let path = format!("{DIR}/{file}");
        let list = fs::read_to_string(&path)?;
        Self::parse(list.trim()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} is malformed: {list:?}"))
        })
    }

    /// Of a list like `0-3,8`.
    fn parse(list: &str) -> Option<Self> {
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(first..=last)
        };
        let cpus = Self(list.split(',').map(range).collect::<Option<_>>()?);
        // A queue's number has to fit.
        u16::try_from(cpus.len()).is_ok().then_some(cpus)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    pub(super) fn has(&self, cpu: u16) -> bool {
        self.0.iter().any(|range| range.contains(&cpu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_as_the_kernel_lists_them() {
        let count = |list| Cpus::parse(list).map(|cpus| cpus.len());
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-1"), Some(2));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        for bad in ["", "-", "3-1", "x", "0-65535", "0,,1"] {
            assert_eq!(count(bad), None, "{bad:?}");
        }
        let cpus = Cpus::parse("0-3,8").unwrap();
        assert!(cpus.has(0) && cpus.has(3) && cpus.has(8) && !cpus.has(4) && !cpus.has(9));
    }
}
