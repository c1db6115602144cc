//! Noticing that the host, or the control group that this process is in, is short of memory.
//!
//! The kernel says at once when programs wait for memory, where it measures that (PSI, Documentation/accounting/psi.rst). They may be those of a
//! container that is at its own limit, which nothing helps that others give back: so it is looked then how much is left for everybody. Where
//! the kernel does not measure it, as in many containers, that is looked at now and then.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Programs waited for memory for 100 ms within 2 s: what a process may ask for without privileges, too.
const TRIGGER: &[u8] = b"some 100000 2000000\0";
/// The host is short when it has less than so much of its memory left, in percent; when programs wait for memory, and otherwise.
const LEFT_FELT: u64 = 20;
const LEFT: u64 = 5;
/// A control group is short when programs have more of what it may have, in percent; likewise.
const TAKEN_FELT: u64 = 50;
const TAKEN: u64 = 80;
/// After memory was short, caches grow again when it has not been for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// They do not shrink twice in so short a time.
const PAUSE: Duration = Duration::from_secs(2);
/// What caches may have, however short memory is.
const LEAST: u64 = 4 << 20;

/// The memory that this process can have, and what tells when it is short.
#[derive(Debug)]
pub struct Memory {
    meminfo: PathBuf,
    triggers: Vec<File>,
    group: Option<Group>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::seen_from(Path::new("/"))
    }
}

impl Memory {
    /// Bytes that there are for this process, of which nobody is told when they are short.
    pub fn all_bytes() -> u64 {
        let (meminfo, triggers) = (PathBuf::from("/proc/meminfo"), Vec::new());
        Self { meminfo, triggers, group: Group::own(Path::new("/")) }.bytes()
    }

    /// With what `root` has of `/proc` and `/sys`.
    pub fn seen_from(root: &Path) -> Self {
        let group = Group::own(root);
        let host = Some(root.join("proc/pressure/memory"));
        let files = [host, group.as_ref().and_then(Group::pressure)];
        let trigger = |path: PathBuf| {
            let opened = trigger(&path);
            opened.inspect_err(|e| log::debug!("{}: {e}", path.display())).ok()
        };
        let triggers = files.into_iter().flatten().filter_map(trigger).collect();
        Self { meminfo: root.join("proc/meminfo"), triggers, group }
    }

    /// Files that have POLLPRI when programs wait for memory.
    pub fn triggers(&self) -> &[File] {
        &self.triggers
    }

    /// They say nothing any more.
    pub fn lose_triggers(&mut self) {
        self.triggers.clear();
    }

    fn read_meminfo(&self) -> Option<String> {
        fs::read_to_string(&self.meminfo).ok()
    }

    /// Bytes that there are for this process: the host's, or those of its control group if these are fewer.
    pub fn bytes(&self) -> u64 {
        let host = self.read_meminfo().and_then(|text| field(&text, "MemTotal:"));
        let host = host.map_or(u64::MAX, |kib| kib.saturating_mul(1024));
        host.min(self.group.as_ref().and_then(Group::limit).unwrap_or(u64::MAX))
    }

    /// Whether little of it is left. `is_felt`: programs wait for memory.
    pub fn is_short(&self, is_felt: bool) -> bool {
        let (left, taken) = if is_felt { (LEFT_FELT, TAKEN_FELT) } else { (LEFT, TAKEN) };
        let is_host_short = self.read_meminfo().and_then(|text| is_host_short(&text, left));
        is_host_short == Some(true) || self.group.as_ref().is_some_and(|group| group.is_short(taken))
    }
}

fn trigger(path: &Path) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.write_all(TRIGGER)?;
    Ok(file)
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn is_host_short(meminfo: &str, percent_left: u64) -> Option<bool> {
    let (left, all) = (field(meminfo, "MemAvailable:")?, field(meminfo, "MemTotal:")?);
    Some(left.saturating_mul(100) < all.saturating_mul(percent_left))
}

/// The control group for memory that this process is in.
#[derive(Debug)]
struct Group {
    /// Its directory, and those of the groups that it is part of, whose limits are its own, too.
    dirs: Vec<PathBuf>,
    /// Of the first version of control groups.
    is_first: bool,
}

impl Group {
    fn own(root: &Path) -> Option<Self> {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let (path, is_first) = path_of(&groups)?;
        let top = root.join(if is_first { "sys/fs/cgroup/memory" } else { "sys/fs/cgroup" });
        // In a container, what is seen as the top may be the group itself.
        let dirs = top.join(path.trim_start_matches('/'));
        let dirs = dirs.ancestors().take_while(|dir| dir.starts_with(&top));
        let dirs: Vec<PathBuf> =
            dirs.filter(|dir| dir.join("memory.stat").exists()).map(Path::to_owned).collect();
        (!dirs.is_empty()).then_some(Self { dirs, is_first })
    }

    /// What is written by the kernel when programs in it wait for memory.
    fn pressure(&self) -> Option<PathBuf> {
        self.dirs.first().map(|dir| dir.join("memory.pressure"))
    }

    /// Bytes that one of the groups may have, if there is a limit.
    fn limit_of(&self, dir: &Path) -> Option<u64> {
        let files: &[&str] =
            if self.is_first { &["memory.limit_in_bytes"] } else { &["memory.max", "memory.high"] };
        let read = |file: &&str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
        // Without a limit, the first version says a very large number.
        files.iter().filter_map(read).filter(|bytes| *bytes < 1 << 60).min()
    }

    fn limit(&self) -> Option<u64> {
        self.dirs.iter().filter_map(|dir| self.limit_of(dir)).min()
    }

    fn is_short(&self, percent_taken: u64) -> bool {
        let is_one_short = |dir: &PathBuf| {
            let limit = self.limit_of(dir)?;
            let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
            let taken = field(&stat, if self.is_first { "total_rss " } else { "anon " })?;
            Some(taken.saturating_mul(100) > limit.saturating_mul(percent_taken))
        };
        self.dirs.iter().any(|dir| is_one_short(dir) == Some(true))
    }
}

/// The path of the group that limits memory, in /proc/self/cgroup, and whether it is one of the first version.
fn path_of(groups: &str) -> Option<(&str, bool)> {
    let mut second = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "memory") {
            return Some((path, true));
        }
        if controllers.is_empty() {
            second = Some((path, false));
        }
    }
    second
}

/// How much caches may have while memory is short, and for a while after.
#[derive(Debug, Default)]
pub struct Squeeze {
    /// The most they may have, and since when that is so.
    ceiling: Option<(u64, Instant)>,
}

impl Squeeze {
    /// Memory is short, and caches have `used` bytes. Whether they are to shrink.
    pub fn note(&mut self, used: u64, now: Instant) -> bool {
        if self.ceiling.is_some_and(|(_, since)| now.saturating_duration_since(since) < PAUSE) {
            return false;
        }
        let before = self.ceiling.map_or(u64::MAX, |(bytes, _)| bytes);
        self.ceiling = Some(((used / 2).max(LEAST).min(before), now));
        true
    }

    /// The most that caches may have now, if there is enough memory for `most`.
    pub fn limit(&mut self, most: u64, now: Instant) -> u64 {
        let Some((bytes, since)) = self.ceiling else { return most };
        if now.saturating_duration_since(since) >= PATIENCE {
            let more = bytes.saturating_mul(2);
            self.ceiling = (more < most).then_some((more, now));
        }
        self.ceiling.map_or(most, |(bytes, _)| bytes.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn caches_shrink_by_halves_and_come_back_when_memory_does() {
        let mut now = Instant::now();
        let mut squeeze = Squeeze::default();
        assert_eq!(squeeze.limit(256 * MIB, now), 256 * MIB);
        assert!(squeeze.note(200 * MIB, now));
        assert!(!squeeze.note(200 * MIB, now), "at once again");
        assert_eq!(squeeze.limit(256 * MIB, now), 100 * MIB);
        assert_eq!(squeeze.limit(50 * MIB, now), 50 * MIB, "it would not have more anyway");
        now += PAUSE;
        assert!(squeeze.note(100 * MIB, now));
        assert_eq!(squeeze.limit(256 * MIB, now), 50 * MIB);
        for _ in 0..20 {
            now += PAUSE;
            squeeze.note(0, now);
        }
        assert_eq!(squeeze.limit(256 * MIB, now), LEAST);
        let mut grown = Vec::new();
        for _ in 0..7 {
            now += PATIENCE;
            grown.push(squeeze.limit(256 * MIB, now) / MIB);
        }
        assert_eq!(grown, [8, 16, 32, 64, 128, 256, 256]);
    }

    #[test]
    fn the_group_is_found_in_both_versions() {
        assert_eq!(path_of("0::/system.slice/x.service\n"), Some(("/system.slice/x.service", false)));
        assert_eq!(path_of("4:cpu,memory:/a:b\n1:cpu:/\n0::/\n"), Some(("/a:b", true)));
        assert_eq!(path_of("1:cpu:/\n"), None);
        assert_eq!(path_of("garbage"), None);
    }

    /// A host with 1,000 MiB, of which so many are left; and a group with 100 MiB, of which programs have so many.
    fn host(left: u64, group_taken: Option<u64>) -> (tempfile::TempDir, Memory) {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: String| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "proc/meminfo",
            format!("MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n", left * 1024),
        );
        write("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull".into());
        if let Some(taken) = group_taken {
            write("proc/self/cgroup", "0::/a.slice/b.service\n".into());
            write("sys/fs/cgroup/a.slice/memory.stat", format!("anon {}\nfile 7\n", taken * MIB));
            write("sys/fs/cgroup/a.slice/memory.max", "max\n".into());
            write("sys/fs/cgroup/a.slice/memory.high", format!("{}\n", 100 * MIB));
            write("sys/fs/cgroup/a.slice/b.service/memory.stat", "anon 0\n".into());
            write("sys/fs/cgroup/a.slice/b.service/memory.max", format!("{}\n", 200 * MIB));
            write("sys/fs/cgroup/a.slice/b.service/memory.pressure", "some".into());
        }
        let memory = Memory::seen_from(dir.path());
        (dir, memory)
    }

    #[test]
    fn memory_is_short_when_little_is_left_and_sooner_when_programs_wait_for_it() {
        for (left, taken, is_short, is_short_when_felt) in [
            (500, None, false, false),
            (199, None, false, true),
            (49, None, true, true),
            (500, Some(50), false, false),
            (500, Some(51), false, true),
            (500, Some(81), true, true),
        ] {
            let (_dir, memory) = host(left, taken);
            assert_eq!(memory.bytes() / MIB, if taken.is_some() { 100 } else { 1000 });
            let found = (memory.is_short(false), memory.is_short(true));
            assert_eq!(found, (is_short, is_short_when_felt), "{left} {taken:?}");
        }
        assert!(!Memory::seen_from(Path::new("/nonexistent")).is_short(true));
        assert_eq!(Memory::seen_from(Path::new("/nonexistent")).bytes(), u64::MAX);
    }

    #[test]
    fn the_kernel_is_asked_to_say_when_programs_wait() {
        let (dir, mut memory) = host(500, Some(0));
        assert_eq!(memory.triggers().len(), 2);
        for file in ["proc/pressure/memory", "sys/fs/cgroup/a.slice/b.service/memory.pressure"] {
            assert!(fs::read(dir.path().join(file)).unwrap().starts_with(TRIGGER), "{file}");
        }
        memory.lose_triggers();
        assert!(memory.triggers().is_empty());
    }

    #[test]
    fn there_is_memory_for_this_process() {
        let memory = Memory::default();
        assert!(memory.bytes() >= MIB && memory.bytes() < u64::MAX);
    }
}
