//! One limit for the caches of all servers of a root, shared among them by use.
//!
//! There is no process that shares it out. Each server has a line in a file that all of them read, and computes from all lines what is its
//! own: how much it may have, has use for, and would take. All compute the same from the same lines, one at a time.
//!
//! Invariants:
//! - a line is its server's as long as that has a lock on it, which the kernel takes away when the server ends, however that ends. What
//!   stands in lines without a lock counts for nothing;
//! - what servers may have is together no more than the limit, but for [`LEAST`] each: who wants more waits until others have less;
//! - nobody waits for another server: where it is at the file, one looks again later.
//!
//! A server that stands still (SIGSTOP, the freezer of a control group) gives nothing back, nor does it take more: what its caches have
//! filled stays in memory, and is its own, but what it was granted beside that is of no use to anybody. So each notes when it last looked, in a
//! second file; who has not looked for long counts for what it can have filled, as if it rested. (One that rests does not look either, and
//! counts for that already. One of an earlier version notes nothing, and counts for what it says.) When it goes on, it looks at once, and
//! until then can fill what it was granted: for so long, there can be more than the limit.

use crate::backing::{OpenMode, open_file};
use nix::fcntl::{FcntlArg, fcntl};
use nix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a server may have at any rate, if the limit leaves so much for each.
pub(super) const LEAST: u64 = 1 << 20;
/// Servers with a line.
const LINES: u64 = 1 << 14;
const LINE_BYTES: usize = 32;
/// Who has not looked for so long stands still: servers look every two seconds, and less often where there are many.
const STILL: Duration = Duration::from_secs(30);
/// And for each other server, so much longer.
const STILL_FOR_EACH: Duration = Duration::from_millis(250);
/// What is noted of when each has looked: the milliseconds of a clock that all have in common.
const LOOK_BYTES: u64 = 8;
const MAGIC: u64 = 0x6c61_7264_6572_6231;

/// What a server says of its caches, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// What it may have.
    pub(super) granted: u64,
    /// What it has use for.
    pub(super) needed: u64,
    /// What it would take, for itself, if nobody else needed it.
    pub(super) most: u64,
}

impl Claim {
    fn read(line: &[u8], limit: u64) -> Option<Self> {
        let mut words = line.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next();
        (next()? == MAGIC).then_some(())?;
        // Nobody can have, or need, more than there is.
        let mut bytes = || next().map(|bytes| bytes.min(limit));
        Some(Self { granted: bytes()?, needed: bytes()?, most: bytes()? })
    }

    /// The same of a server that stands still.
    fn standing_still(self) -> Self {
        // It needs at least what it has filled.
        let filled = self.granted.min(self.needed);
        Self { granted: filled, needed: filled, most: filled }
    }

    fn line(self) -> [u8; LINE_BYTES] {
        let mut line = [0; LINE_BYTES];
        let words = [MAGIC, self.granted, self.needed, self.most];
        for (at, word) in line.chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        line
    }
}

/// How high water stands that fills vessels of these sizes, of which there is `amount`.
fn level(amount: u64, mut sizes: Vec<u64>) -> u64 {
    sizes.sort_unstable();
    let mut left = amount;
    for (at, size) in sizes.iter().enumerate() {
        let others = (sizes.len() - at) as u64;
        if size.saturating_mul(others) > left {
            return left / others;
        }
        left -= size;
    }
    u64::MAX
}

/// What the server of `own` may have of `limit`, beside `others`: of what it needs as much as everybody else, of what is left then likewise,
/// and no more than is free now.
pub(super) fn share(limit: u64, own: Claim, others: &[Claim]) -> u64 {
    let all = || others.iter().chain([&own]);
    let needed = |claim: &Claim| claim.needed.min(claim.most);
    let need = level(limit, all().map(needed).collect());
    let basis = |claim: &Claim| needed(claim).min(need);
    let left = limit.saturating_sub(all().map(basis).fold(0, u64::saturating_add));
    let more = level(left, all().map(|claim| claim.most - basis(claim)).collect());
    let fair = basis(&own).saturating_add(more.min(own.most - basis(&own)));
    let free = limit.saturating_sub(others.iter().map(|it| it.granted).fold(0, u64::saturating_add));
    let least = LEAST.min(limit / (others.len() as u64 + 1)).min(own.most);
    fair.min(free).max(least)
}

/// What a server needs that has filled `used` bytes of what it was granted.
pub(super) fn needed(used: u64, granted: u64, most: u64) -> u64 {
    const FIRST: u64 = 8 << 20;
    let is_full = used >= granted - granted / 8;
    let wanted = if is_full { used.saturating_mul(2) } else { used + used / 4 };
    wanted.max(FIRST).min(most)
}

/// The file, and a server's line in it.
#[derive(Debug)]
pub(super) struct Budget {
    file: File,
    /// When each server has looked.
    looks: File,
    line: u64,
    limit: u64,
    /// What it says itself.
    own: Claim,
    /// What nobody has, and how many other servers have or need something, when that was last looked at.
    free: u64,
    others: usize,
}

fn lock_of(at: u64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

impl Budget {
    /// Takes a line of the file at `path`, which is made if it is not there, for a share of `limit` bytes.
    ///
    /// # Errors
    /// As open(2), or when there are no lines left.
    pub(super) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = open_file(path, OpenMode::Create)?;
        let looks = open_file(&looks_of(path), OpenMode::Create)?;
        for line in 0..LINES {
            if try_lock(&file, line)? {
                let budget = Self { file, looks, line, limit, own: Claim::default(), free: 0, others: 0 };
                budget.note_look()?;
                budget.write(budget.own)?;
                return Ok(budget);
            }
        }
        Err(io::Error::other("too many servers"))
    }

    /// From now on, it is of so many bytes that there is a share.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// What this server may have.
    pub(super) fn granted(&self) -> u64 {
        self.own.granted
    }

    /// Other servers that had or needed something when this one last looked.
    pub(super) fn others_count(&self) -> usize {
        self.others
    }

    /// Whether there is little left for those who come next.
    pub(super) fn is_scarce(&self) -> bool {
        self.free < self.limit / 2
    }

    /// This server has looked: it does not stand still, also where it cannot say what its caches have.
    ///
    /// # Errors
    /// As pwrite(2).
    pub(super) fn note_look(&self) -> io::Result<()> {
        self.looks.write_all_at(&now_ms().to_le_bytes(), self.line * LOOK_BYTES)
    }

    fn write(&self, claim: Claim) -> io::Result<()> {
        self.file.write_all_at(&claim.line(), self.line * LINE_BYTES as u64)
    }

    /// What this server may have from now on, having filled `used` bytes and taking `most`; it is noted for others.
    ///
    /// # Errors
    /// `WouldBlock` when another server is looking: it may have what it had. As pread(2) and pwrite(2).
    pub(super) fn look(&mut self, used: u64, most: u64) -> io::Result<u64> {
        self.note_look()?;
        self.alone(|this| {
            let others = this.others()?;
            let granted = this.own.granted;
            let own = Claim { granted, needed: needed(used, granted, most), most };
            let own = Claim { granted: share(this.limit, own, &others), ..own };
            this.write(own)?;
            let taken = others.iter().map(|other| other.granted).fold(own.granted, u64::saturating_add);
            (this.own, this.others) = (own, others.len());
            this.free = this.limit.saturating_sub(taken);
            Ok(own.granted)
        })
    }

    /// This server has filled so much, and needs no more: others may have the rest. What everybody may have is not worth a word.
    ///
    /// # Errors
    /// As [`Budget::look`].
    pub(super) fn rest(&mut self, used: u64) -> io::Result<()> {
        let kept = if used < LEAST { 0 } else { used };
        let (own, before) = (Claim { granted: kept, needed: kept, most: kept }, self.own);
        let rests = before.needed == before.granted && before.most == before.granted;
        let is_near = kept.min(before.granted) > 0 && kept.abs_diff(before.granted) < LEAST;
        if own == before || (rests && is_near) {
            return Ok(());
        }
        self.alone(|this| {
            this.write(own)?;
            this.free = this.free.saturating_add(before.granted).saturating_sub(kept);
            this.own = own;
            Ok(())
        })
    }

    /// Does something while no other server does.
    fn alone<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if !try_lock(&self.file, LINES)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let worked = work(self);
        let unlock = lock_of(LINES, libc::F_UNLCK);
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&unlock))?;
        worked
    }

    /// What other servers claim.
    fn others(&self) -> io::Result<Vec<Claim>> {
        let bytes = all_of(&self.file, LINES * LINE_BYTES as u64)?;
        let looks = all_of(&self.looks, LINES * LOOK_BYTES)?;
        let mut looks = looks.chunks_exact(LOOK_BYTES as usize);
        let mut claims = Vec::new();
        for (line, bytes) in (0..).zip(bytes.chunks_exact(LINE_BYTES)) {
            let look = looks.next().and_then(|look| look.try_into().ok()).map_or(0, u64::from_le_bytes);
            if line != self.line
                && let Some(claim) = Claim::read(bytes, self.limit)
                && claim != Claim::default()
                && is_locked(&self.file, line)?
            {
                claims.push((claim, look));
            }
        }
        let still = (STILL + STILL_FOR_EACH * claims.len() as u32).as_millis() as u64;
        let before = now_ms().saturating_sub(still);
        let stands_still = |look: u64| look != 0 && look < before;
        let seen =
            |(claim, look): (Claim, u64)| if stands_still(look) { claim.standing_still() } else { claim };
        let claims = claims.into_iter().map(seen).filter(|claim| *claim != Claim::default()).collect();
        Ok(claims)
    }
}

/// The file beside the one at `path`.
fn looks_of(path: &Path) -> PathBuf {
    path.with_extension("looks")
}

/// Milliseconds that have passed while the host was awake.
fn now_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_millis() as u64)
}

/// What is in a file, as far as it is no longer than `most`.
fn all_of(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().min(most);
    let mut bytes = vec![0; len as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            // It was cut.
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Locks a line for as long as the file is open; false if somebody else has.
fn try_lock(file: &File, line: u64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(line, libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether somebody else has locked a line.
fn is_locked(file: &File, line: u64) -> io::Result<bool> {
    let mut lock = lock_of(line, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn claim(granted: u64, needed: u64, most: u64) -> Claim {
        Claim { granted: granted * MIB, needed: needed * MIB, most: most * MIB }
    }

    fn shared(limit: u64, own: Claim, others: &[Claim]) -> u64 {
        share(limit * MIB, own, others) / MIB
    }

    #[test]
    fn what_is_there_is_shared_by_need_and_the_rest_evenly() {
        let idle = claim(0, 8, 256);
        // There is enough: everybody has what it takes.
        assert_eq!(shared(1024, claim(0, 8, 256), &[idle, idle]), 256);
        // There is not: nobody needs it yet.
        assert_eq!(shared(300, claim(0, 8, 256), &[idle, idle]), 100);
        // One does.
        assert_eq!(shared(300, claim(0, 256, 256), &[idle, idle]), 256);
        assert_eq!(shared(300, idle, &[claim(0, 256, 256), idle]), 22);
        // All do.
        let all = claim(0, 200, 256);
        assert_eq!(shared(300, all, &[all, all]), 100);
        // A cap of its own, and one of nothing.
        assert_eq!(shared(1024, claim(0, 64, 16), &[idle]), 16);
        assert_eq!(shared(1024, claim(0, 0, 0), &[idle]), 0);
    }

    #[test]
    fn nobody_has_what_others_have_not_let_go_of() {
        // Its fair share is half.
        let other = claim(90, 100, 100);
        assert_eq!(shared(100, claim(10, 100, 100), &[other]), 10);
        assert_eq!(shared(100, other, &[claim(10, 100, 100)]), 50);
        assert_eq!(shared(100, claim(10, 100, 100), &[claim(50, 100, 100)]), 50);
        // At any rate a little.
        assert_eq!(shared(100, claim(0, 100, 100), &[claim(100, 100, 100)]), 1);
    }

    #[test]
    fn the_sum_keeps_to_the_limit_whatever_servers_say() {
        let numbers = [0, 1, MIB, 77 * MIB, 1 << 40, u64::MAX];
        let mut claims = Vec::new();
        for (i, granted) in numbers.iter().enumerate() {
            for (j, needed) in numbers.iter().enumerate() {
                claims.push(Claim { granted: *granted, needed: *needed, most: numbers[(i + j) % 6] });
            }
        }
        for limit in [0, 5, MIB, 100 * MIB, 1 << 50] {
            let mut read: Vec<Claim> =
                claims.iter().map(|it| Claim::read(&it.line(), limit).unwrap()).collect();
            // Each looks in turn, until nothing changes any more.
            for _ in 0..3 {
                for at in 0..read.len() {
                    let own = read.remove(at);
                    let granted = share(limit, own, &read);
                    read.insert(at, Claim { granted, ..own });
                }
            }
            let sum: u64 = read.iter().map(|it| it.granted).sum();
            let least = LEAST.min(limit / read.len() as u64) * read.len() as u64;
            assert!(sum <= limit + least, "{sum} of {limit}");
        }
    }

    #[test]
    fn what_is_full_grows_and_what_is_not_stays() {
        assert_eq!(needed(100 * MIB, 100 * MIB, 256 * MIB), 200 * MIB);
        assert_eq!(needed(200 * MIB, 200 * MIB, 256 * MIB), 256 * MIB);
        assert_eq!(needed(80 * MIB, 160 * MIB, 256 * MIB), 100 * MIB);
        assert_eq!(needed(0, 0, 256 * MIB), 8 * MIB);
        assert_eq!(needed(0, 0, 0), 0);
    }

    #[test]
    fn the_share_of_a_server_that_is_gone_is_free_and_garbage_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caches");
        let limit = 100 * MIB;
        let mut one = Budget::open(&path, limit).unwrap();
        assert_eq!(one.look(0, limit).unwrap(), limit);
        let mut two = Budget::open(&path, limit).unwrap();
        assert_eq!(two.look(0, limit).unwrap(), LEAST, "the first has it all");
        assert_eq!(one.look(0, limit).unwrap(), 50 * MIB);
        assert_eq!(two.look(0, limit).unwrap(), 50 * MIB);
        // The first fills it, and needs more.
        assert_eq!(one.look(50 * MIB, limit).unwrap(), 50 * MIB);
        assert!(two.look(0, limit).unwrap() < 10 * MIB);
        assert!(one.look(50 * MIB, limit).unwrap() > 90 * MIB);
        // It rests with little, and ends.
        one.rest(20 * MIB).unwrap();
        assert!(one.granted() == 20 * MIB && !one.is_scarce());
        assert_eq!(two.look(0, limit).unwrap(), 80 * MIB);
        assert!(two.is_scarce());
        drop(one);
        assert_eq!(two.look(0, limit).unwrap(), limit);
        // Whatever stands in lines that are nobody's.
        let file = File::options().write(true).open(&path).unwrap();
        for line in [0, 2, 3, 7] {
            file.write_all_at(&claim(99, 99, 99).line(), line * LINE_BYTES as u64).unwrap();
            file.write_all_at(&[0xff; 70], (100 + line) * LINE_BYTES as u64).unwrap();
        }
        assert_eq!(two.look(0, limit).unwrap(), limit);
        file.set_len(3).unwrap();
        assert_eq!(two.look(0, limit).unwrap(), limit);
        // The first line is free again.
        let mut three = Budget::open(&path, limit).unwrap();
        assert_eq!(three.line, 0);
        assert_eq!(three.look(0, limit).unwrap(), LEAST);
    }

    /// It kept what it was granted, and filled nothing of it, from all others.
    #[test]
    fn a_server_that_stands_still_keeps_what_it_has_filled_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caches");
        let limit = 200 * MIB;
        let mut one = Budget::open(&path, limit).unwrap();
        assert_eq!(one.look(16 * MIB, limit).unwrap(), limit);
        let mut two = Budget::open(&path, limit).unwrap();
        assert_eq!(two.look(0, limit).unwrap(), LEAST);
        let looked_before = |budget: &Budget, ago: Duration| {
            let look = now_ms().saturating_sub(ago.as_millis() as u64).max(1);
            budget.looks.write_all_at(&look.to_le_bytes(), budget.line * LOOK_BYTES).unwrap();
        };
        // A host that was started a moment ago has no such time.
        if now_ms() > 60_000 {
            looked_before(&one, STILL - Duration::from_secs(2));
            assert_eq!(two.look(0, limit).unwrap(), LEAST);
            looked_before(&one, STILL + Duration::from_secs(2));
            assert_eq!(two.look(0, limit).unwrap(), limit - 32 * MIB, "twice what it has filled");
            // It goes on, and has what is left, until the other one has looked.
            assert!(one.look(16 * MIB, limit).unwrap() <= 32 * MIB);
            two.look(0, limit).unwrap();
            assert!(one.look(16 * MIB, limit).unwrap() > 90 * MIB);
        }
        // One that rests does not look, and has said what it keeps.
        one.rest(20 * MIB).unwrap();
        assert_eq!(two.look(0, limit).unwrap(), 180 * MIB);
        looked_before(&one, 2 * STILL);
        assert_eq!(two.look(0, limit).unwrap(), 180 * MIB);
        // Of one that notes nothing, nobody knows.
        one.look(0, limit).unwrap();
        let granted = two.look(0, limit).unwrap();
        one.looks.write_all_at(&[0; 8], one.line * LOOK_BYTES).unwrap();
        assert_eq!(two.look(0, limit).unwrap(), granted);
        drop((one, two));
        std::fs::remove_file(looks_of(&path)).unwrap();
        assert_eq!(Budget::open(&path, limit).unwrap().look(0, limit).unwrap(), limit);
    }

    #[test]
    fn nobody_waits_for_a_server_that_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("caches");
        let mut one = Budget::open(&path, MIB).unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        assert!(try_lock(&other, LINES).unwrap());
        assert_eq!(one.look(0, MIB).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(other);
        assert_eq!(one.look(0, MIB).unwrap(), MIB);
    }
}
