//! What is mounted: `/proc/self/mountinfo`.

use super::FS_TYPE;
use nix::mount::MsFlags;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server may take to say anything.
const ANSWER: Duration = Duration::from_secs(2);

/// A mount, as proc(5) describes a line of `/proc/<pid>/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The number of the mount, in all namespaces; used again when it has ended.
    pub id: u64,
    /// Device number, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Type of the file system.
    pub fs_type: String,
    /// What is mounted: for us, the name of the volume.
    pub source: Vec<u8>,
    /// What the mount itself forbids or leaves out: `nosuid` and its like. A remount that does not name them gives them up.
    pub flags: MsFlags,
    /// The group of mounts that what happens here happens to as well, if there is one.
    pub peers: Option<u64>,
    /// The group of mounts that this one follows, if there is one.
    pub follows: Option<u64>,
}

impl MountEntry {
    /// Whether it is a volume of ours.
    pub fn is_larder(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// The volume's name, if it is one of ours.
    pub fn volume(&self) -> Option<&str> {
        if self.is_larder() { std::str::from_utf8(&self.source).ok() } else { None }
    }

    /// The number of its connection in the kernel, if it is FUSE: the minor number of its device.
    pub fn connection(&self) -> Option<u32> {
        self.device.split_once(':')?.1.parse().ok()
    }

    /// What a line of mountinfo says.
    #[cfg(test)]
    pub fn parse(line: &[u8]) -> Option<Self> {
        parse_line(line)
    }

    /// Whether the server behind it is gone: every request says ENOTCONN, or ECONNABORTED where the connection was ended on
    /// purpose. (Attributes would not do: the kernel answers from what it remembers.) What does not answer at all is not dead: another
    /// server is about to take it over. Nor is what cannot be seen, because something else is on top of it.
    pub fn is_dead(&self) -> bool {
        self.hold_dead().is_some()
    }

    /// Its directory, held, if the server behind it is gone.
    pub(super) fn hold_dead(&self) -> Option<File> {
        let (send, receive) = std::sync::mpsc::channel();
        let entry = self.clone();
        // Its path, too, can lead through a file system that does not answer.
        let asked = std::thread::Builder::new().spawn(move || send.send(entry.hold().and_then(if_dead)));
        asked.ok().and_then(|_| receive.recv_timeout(ANSWER).ok())?.ok()
    }

    /// Its directory, held: whoever may change a directory above it can put something else in its place at any moment, but what is
    /// held stays this mount. Nothing is asked of its server.
    fn hold(&self) -> io::Result<File> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let there = OpenOptions::new().read(true).custom_flags(flags).open(&self.dir)?;
        let other = || io::Error::new(io::ErrorKind::NotFound, "something else is there");
        if mount_id(&there)? == self.id { Ok(there) } else { Err(other()) }
    }
}

fn if_dead(held: File) -> io::Result<File> {
    use nix::errno::Errno::{ECONNABORTED, ENOTCONN};
    match nix::sys::statvfs::fstatvfs(&held) {
        Err(ENOTCONN | ECONNABORTED) => Ok(held),
        _ => Err(io::Error::other("it is not dead")),
    }
}

/// The number of the mount that a file was opened on.
fn mount_id(file: &File) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.and_then(|id| id.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What is at hand through a descriptor: a path that leads nowhere else, whatever others do to directories.
pub(super) fn path_of(held: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// All mounts of this process's namespace, in the order they were made.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn entries() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// All mounts of the namespace of a process, by its directory in `/proc`.
///
/// # Errors
/// As open(2); a process may end at any moment.
pub fn entries_of(process: &Path) -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read(process.join("mountinfo"))?))
}

/// The mount on top at exactly `dir`, if something is mounted there.
///
/// # Errors
/// As [`entries`].
pub fn entry_at(dir: &Path) -> io::Result<Option<MountEntry>> {
    last_at(BufReader::new(File::open("/proc/self/mountinfo")?), dir)
}

/// The last mount at exactly `dir`. A line at a time: servers ask this, and what a thread has once used stays the process's.
fn last_at(mut lines: impl BufRead, dir: &Path) -> io::Result<Option<MountEntry>> {
    let (mut line, mut found) = (Vec::new(), None);
    while lines.read_until(b'\n', &mut line)? > 0 {
        let entry = parse_line(line.strip_suffix(b"\n").unwrap_or(&line));
        found = entry.filter(|entry| entry.dir == dir).or(found);
        line.clear();
    }
    Ok(found)
}

/// The name of the volume of ours that something lies in, if it does: what is at `path`, wherever symbolic links lead, or the nearest
/// directory above it that is there. It is none where that cannot be told.
pub fn volume_at(path: &Path) -> Option<String> {
    let there = path.ancestors().find_map(|path| {
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
    })?;
    let id = mount_id(&there).ok()?;
    let entry = entries().ok()?.into_iter().find(|entry| entry.id == id)?;
    let name = entry.volume()?;
    // (Or one of its snapshots.)
    Some(name.split_once('@').map_or(name, |(volume, _)| volume).to_owned())
}

/// Processes in other mount namespaces, one of each, that keep the file system of `entry` alive: those whose mount of it does not
/// go away with `entry`. Processes that end meanwhile, or that this process may not look at, are not among them.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn holders(entry: &MountEntry) -> io::Result<Vec<u32>> {
    let mut seen = vec![fs::read_link("/proc/self/ns/mnt")?];
    let mut holders = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        seen.push(namespace);
        let Ok(table) = fs::read(process.path().join("mountinfo")) else { continue };
        if parse(&table).iter().any(|other| outlives(other, entry)) {
            holders.push(pid);
        }
    }
    Ok(holders)
}

/// Whether process `pid` has the file system of `entry` among its mounts. `None`: that cannot be found out from here.
pub fn is_seen_by(entry: &MountEntry, pid: u32) -> Option<bool> {
    let table = fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    Some(parse(&table).iter().any(|other| other.device == entry.device))
}

/// Whether `other`, in another namespace, stays when `entry` is unmounted.
fn outlives(other: &MountEntry, entry: &MountEntry) -> bool {
    let told = entry.peers.is_some_and(|group| other.peers == Some(group) || other.follows == Some(group));
    other.device == entry.device && !told
}

pub(super) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// What an option of a mount is as a flag.
fn flag(option: &[u8]) -> MsFlags {
    match option {
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        b"noatime" => MsFlags::MS_NOATIME,
        b"nodiratime" => MsFlags::MS_NODIRATIME,
        b"relatime" => MsFlags::MS_RELATIME,
        b"nosymfollow" => super::options::NO_SYMFOLLOW,
        _ => MsFlags::empty(),
    }
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    let dir = path_from_bytes(unescape(fields.nth(1)?));
    let flags = fields.next()?.split(|b| *b == b',').map(flag).collect();
    // Behind the options, a varying number of optional fields ends with a dash.
    let (mut peers, mut follows) = (None, None);
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        let number = |prefix: &str| std::str::from_utf8(field).ok()?.strip_prefix(prefix)?.parse().ok();
        peers = peers.or_else(|| number("shared:"));
        follows = follows.or_else(|| number("master:"));
    }
    let fs_type = String::from_utf8(fields.next()?.to_vec()).ok()?;
    Some(MountEntry { id, device, dir, fs_type, source: unescape(fields.next()?), flags, peers, follows })
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok())
        });
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// A path as bytes, for messages that travel.
pub(crate) fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The path that [`path_bytes`] was given.
pub(crate) fn path_from_bytes(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_what_is_in_its_own_table() {
        let entry = entries().unwrap().remove(0);
        assert_eq!(is_seen_by(&entry, std::process::id()), Some(true));
        let other = MountEntry { device: "0:4294967295".into(), ..entry.clone() };
        assert_eq!(is_seen_by(&other, std::process::id()), Some(false));
        assert_eq!(is_seen_by(&entry, u32::MAX), None);
    }

    /// As after somebody has exchanged a directory above it for a link, since the table was read.
    #[test]
    fn a_mount_is_not_taken_for_what_has_come_to_lie_at_its_path() {
        let proc = entry_at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(mount_id(&proc.hold().unwrap()).unwrap(), proc.id);
        let tmp = tempfile::tempdir().unwrap();
        let at = |dir: PathBuf| MountEntry { dir, ..proc.clone() }.hold();
        std::os::unix::fs::symlink("/", tmp.path().join("above")).unwrap();
        assert!(at(tmp.path().join("above/proc")).is_ok(), "it is the same, whichever way it is reached");
        assert!(at(tmp.path().join("above")).is_err());
        assert!(at(tmp.path().join("above/dev")).is_err());
        // A link on the mount itself leads away from it.
        assert!(if_dead(at(PathBuf::from("/proc/self")).unwrap()).is_err());
    }

    #[test]
    fn of_mounts_on_top_of_each_other_the_last_one_counts() {
        let text = b"36 35 98:0 / /mnt rw - fuse.larder one rw\n37 36 98:1 / /mnt rw - fuse.larder two rw\nbroken /mnt\n38 37 98:2 / /mnt/a rw - x y rw";
        let at = |dir: &str| last_at(&text[..], Path::new(dir)).unwrap().map(|entry| entry.id);
        assert_eq!((at("/mnt"), at("/mnt/a"), at("/")), (Some(37), Some(38), None));
    }

    #[test]
    fn lines_of_mountinfo_are_read() {
        let text =
            b"36 35 98:0 / /mnt\\040with\\134x rw,nosuid,noatime shared:1 master:2 - fuse.larder db rw,user_id=0\n\
                     37 35 0:40 / /proc rw - proc proc rw\nbroken\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].dir, Path::new("/mnt with\\x"));
        assert_eq!((entries[0].device.as_str(), entries[0].volume()), ("98:0", Some("db")));
        assert_eq!((entries[0].id, entries[1].id), (36, 37));
        assert_eq!(entries[0].flags, MsFlags::MS_NOSUID | MsFlags::MS_NOATIME);
        assert_eq!((entries[0].peers, entries[0].follows), (Some(1), Some(2)));
        assert_eq!((entries[1].peers, entries[1].follows), (None, None));
        assert_eq!((entries[1].fs_type.as_str(), entries[1].volume()), ("proc", None));
    }
}
