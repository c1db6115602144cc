//! Bad input: one clear line, the right exit code, nothing lost, nothing hung.

use crate::support::{Host, as_user, larder, run, shell, succeed, wait_until};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn unknown_volumes() {
    let host = Host::new();
    host.ok(&["create", "other"]);
    let dir = host.dir("mnt");
    for args in [
        &["mount", "nope", dir.to_str().unwrap()][..],
        &["inspect", "nope"],
        &["check", "nope"],
        &["df", "nope"],
        &["umount", "nope"],
    ] {
        assert!(host.fails(3, args).contains("\"nope\""), "{args:?}");
    }
    let output = run(&mut host.command(&["rm", "nope"]));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn bad_names() {
    let host = Host::plain();
    let long = "x".repeat(256);
    for name in ["../x", "", ".", "..", "a/b", "a b", "a@b", "-x\n", &long] {
        let line = host.fails(2, &[OsStr::new("create"), OsStr::new("--"), OsStr::new(name)]);
        assert!(line.contains("not a valid volume name"), "{line}");
    }
    assert!(
        !host.root().join("stores").exists()
            || fs::read_dir(host.root().join("stores")).unwrap().next().is_none()
    );
    host.ok(&["create", "other"]);
    for command in ["mount", "inspect", "check", "rm"] {
        let mut args = vec![command, "../x"];
        let dir = host.dir("m");
        if command == "mount" {
            args.push(dir.to_str().unwrap());
        }
        assert_eq!(run(&mut host.command(&args)).status.code(), Some(2), "{command}");
    }
    // Bytes that are no text at all.
    let odd = OsString::from_vec(vec![0xff, 0xfe]);
    assert_eq!(run(&mut host.command(&[OsStr::new("create"), &odd])).status.code(), Some(2));
}

#[test]
fn a_name_that_exists() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    assert!(host.fails(4, &["create", "v"]).contains("exists"));
    host.check("v");
}

#[test]
fn bad_limits() {
    let host = Host::new();
    for args in [
        ["--size", "0"],
        ["--size", "1000"],
        ["--size", "-1"],
        ["--size", "8E"],
        ["--inodes", "0"],
        ["--mode", "9"],
    ] {
        let output = run(&mut host.command(&[&["create", "v"][..], &args].concat()));
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    host.ok(&["create", "v"]);
    for args in [["--size", "1000"], ["--size", "0"], ["--inodes", "0"], ["--metadata", "1"]] {
        let output = run(&mut host.command(&[&["resize", "v"][..], &args].concat()));
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    assert!(host.ok(&["ls"]).lines().count() == 2);
}

#[test]
fn bad_mountpoints() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.dir("d");
    let missing = dir.join("missing");
    assert!(host.fails(6, &["mount", "v", missing.to_str().unwrap()]).contains("no such directory"));
    let file = dir.join("file");
    fs::write(&file, "").unwrap();
    assert!(host.fails(6, &["mount", "v", file.to_str().unwrap()]).contains("not a directory"));
    assert!(host.fails(6, &["mount", "v", dir.to_str().unwrap()]).contains("not empty"));
    // Nothing was left running: the volume can be removed.
    host.ok(&["rm", "v"]);
}

#[test]
fn what_is_mounted_already() {
    let host = Host::new();
    host.ok(&["create", "other"]);
    let dir = host.volume("v", &[]);
    let elsewhere = host.dir("elsewhere");
    let line = host.fails(5, &["mount", "v", elsewhere.to_str().unwrap()]);
    assert!(line.contains("already mounted") && line.contains("--bind"), "{line}");
    let line = host.fails(6, &["mount", "other", dir.to_str().unwrap()]);
    assert!(line.contains("is mounted there"), "{line}");
    assert!(host.fails(6, &["umount", elsewhere.to_str().unwrap()]).contains("no volume is mounted"));
    assert!(host.fails(6, &["umount", "other"]).contains("not mounted"));
    assert!(host.fails(6, &["umount", "/proc"]).contains("no volume is mounted"));
}

#[test]
fn a_busy_mount_says_what_to_do() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let user = crate::support::Background::start(Command::new("sleep").arg("1000").current_dir(&dir));
    let line = host.fails(5, &["umount", "v"]);
    assert!(line.contains("in use") && line.contains("--lazy"), "{line}");
    host.ok(&["umount", "v", "--lazy"]);
    drop(user);
    wait_until("the server ends", || host.json(&["inspect", "v"])["server"].is_null());
}

#[test]
fn bad_mount_options() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.dir("d");
    for option in ["nonsense", "commit=0", "cache-size=x"] {
        let line = host.fails(2, &["mount", "v", dir.to_str().unwrap(), "-o", option]);
        assert!(line.contains(option), "{line}");
    }
}

#[test]
fn without_permission() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let (root, dir) = (host.root().display().to_string(), host.dir("d").display().to_string());
    // The program and the root as another user sees them.
    let copy = Path::new("/tmp").join(format!("larder-test-{}", std::process::id()));
    fs::copy(larder(), &copy).unwrap();
    let output = as_user(65534, 65534, &format!("{} --root {root} mount v {dir}", copy.display()));
    let _ = fs::remove_file(&copy);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{line}");
    assert!(line.contains("ermission") && line.lines().count() == 1, "{line}");
}

#[test]
fn without_fuse() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let dir = host.dir("d");
    // In a mount namespace of its own, with a /dev in which there is nothing but what a program needs.
    let script = format!(
        "mkdir -p {0}/dev && mount -t tmpfs none {0}/dev && touch {0}/dev/null && mount --bind /dev/null {0}/dev/null && \
         mount --move {0}/dev /dev && exec {1} --root {2} mount v {0}/m",
        dir.display(),
        larder(),
        host.root().display()
    );
    fs::create_dir(dir.join("m")).unwrap();
    let output = run(Command::new("unshare").args(["-m", "bash", "-c", &script]));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(8), "{line}");
    assert!(line.contains("/dev/fuse") && line.contains("modprobe"), "{line}");
    host.ok(&["rm", "v"]);
}

#[test]
fn an_option_that_the_kernel_cannot_carry_out() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mountpoint("v");
    fs::create_dir_all(&dir).unwrap();
    for transport in ["dev", "fuser"] {
        let options = format!("idmap=on,transport={transport}");
        let args = ["mount".as_ref(), "v".as_ref(), dir.as_os_str(), "-o".as_ref(), options.as_ref()];
        let output = run(host.command(&args).env("LARDER_KERNEL_WITHOUT", "idmap"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("idmap=on needs Linux 6.12 or later"), "{said}");
        assert!(!shell(&dir, "findmnt -rno TARGET -t fuse.larder || true").contains(dir.to_str().unwrap()));
        wait_until("the server ends", || host.servers().is_empty());
    }
    host.mount("v", &[]);
    host.umount("v");
    host.check("v");
}

#[test]
fn a_store_that_another_process_has_open() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let lock = fs::File::open(host.store("v").join("lock")).unwrap();
    let held =
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
    assert!(host.fails(5, &["rm", "v"]).contains("in use"));
    let line = host.fails(5, &["check", "v"]);
    assert!(line.contains("in use"), "{line}");
    let dir = host.dir("d");
    let line = host.fails(5, &["mount", "v", dir.to_str().unwrap()]);
    assert!(line.contains("another process"), "{line}");
    drop(held);
    host.mount("v", &[]);
}

/// Damages the header in some way and returns what mounting says.
fn with_header(edit: impl Fn(String) -> Vec<u8>, code: i32) -> String {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    host.umount("v");
    let header = host.store("v").join("header.json");
    let good = fs::read_to_string(&header).unwrap();
    fs::write(&header, edit(good.clone())).unwrap();
    let line = host.fails(code, &["mount", "v", host.mountpoint("v").to_str().unwrap()]);
    assert_eq!(run(&mut host.command(&["check", "v"])).status.code(), Some(code));
    assert_eq!(run(&mut host.command(&["ls"])).status.code(), Some(code), "the list says so and goes on");
    // Nothing was lost.
    fs::write(&header, good).unwrap();
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    line
}

#[test]
fn a_damaged_header() {
    assert!(with_header(|t| t.as_bytes()[..40].to_vec(), 9).contains("header.json"));
    assert!(with_header(|_| Vec::new(), 9).contains("truncated"));
    assert!(with_header(|t| t.replace("created\": 1", "created\": 2").into_bytes(), 9).contains("checksum"));
}

#[test]
fn a_store_of_a_newer_version() {
    let line = with_header(|t| t.replace("\"version\": 1", "\"version\": 7").into_bytes(), 10);
    assert!(line.contains("version 7") && line.contains("newer larder"), "{line}");
}

#[test]
fn a_missing_header_or_store() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let store = host.store("v");
    let dir = host.dir("d");
    fs::rename(store.join("header.json"), store.join("x")).unwrap();
    assert!(host.fails(9, &["mount", "v", dir.to_str().unwrap()]).contains("header.json"));
    fs::rename(store.join("x"), store.join("header.json")).unwrap();
    fs::rename(&store, store.with_extension("away")).unwrap();
    assert!(host.fails(9, &["mount", "v", dir.to_str().unwrap()]).contains("is not there; mount the disk"));
    fs::rename(store.with_extension("away"), &store).unwrap();
    host.check("v");
}

#[test]
fn a_damaged_database() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    for i in 0..2000 {
        fs::write(dir.join(format!("file-{i}")), "").unwrap();
    }
    host.umount("v");
    let path = host.store("v").join("meta.db");
    let good = fs::read(&path).unwrap();
    // Cut off, and nothing at all.
    for len in [0, 100, 4096, good.len() / 2] {
        fs::write(&path, &good[..len]).unwrap();
        let output = run(&mut host.command(&["check", "v"]));
        assert_eq!(
            output.status.code(),
            Some(9),
            "cut to {len}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let output = run(&mut host.command(&["mount", "v", host.mountpoint("v").to_str().unwrap()]));
        if !output.status.success() {
            assert_eq!(
                output.status.code(),
                Some(9),
                "cut to {len}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        } else {
            host.umount("v");
        }
    }
    // A bit of any page.
    for page in 0..good.len() / 4096 {
        let mut bad = good.clone();
        bad[page * 4096 + 1000 + page % 2000] ^= 0x20;
        fs::write(&path, &bad).unwrap();
        assert_eq!(run(&mut host.command(&["check", "v"])).status.code(), Some(9), "page {page}");
    }
    fs::write(&path, &good).unwrap();
    host.check("v");
}

#[test]
fn a_database_that_is_damaged_while_it_is_in_use_is_an_error_and_no_lie() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    for i in 0..30_000 {
        fs::write(dir.join(format!("file-{i}")), "").unwrap();
    }
    host.umount("v");
    let path = host.store("v").join("meta.db");
    let whole = fs::read(&path).unwrap();
    // Which page holds what depends on when the server committed: where everything hangs on one that is damaged, others are.
    for shift in 0..7 {
        fs::write(&path, &whole).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // The first pages are those that every open reads.
        for page in (40 + shift..whole.len() as u64 / 4096).step_by(7) {
            file.write_all_at(b"damaged!", page * 4096 + 2000).unwrap();
        }
        let dir = host.mount("v", &[]);
        let (mut found, mut failed) = (0, 0);
        for i in 0..30_000 {
            match fs::metadata(dir.join(format!("file-{i}"))) {
                Ok(meta) => {
                    assert!(meta.is_file() && meta.len() == 0);
                    found += 1;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO), "file-{i}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "{found} found");
        let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
        assert!(log.contains("meta.db: page"), "{log}");
        if found > 0 {
            return;
        }
        host.umount("v");
    }
    panic!("nothing was found, whichever pages were damaged");
}

/// A small ext4 file system on a loop device, gone at the end.
pub struct SmallDisk {
    dir: PathBuf,
    _tmp: tempfile::TempDir,
}

impl SmallDisk {
    pub fn new(mib: u32) -> Self {
        let tmp = crate::support::scratch();
        let (image, dir) = (tmp.path().join("image"), tmp.path().join("disk"));
        fs::create_dir(&dir).unwrap();
        shell(tmp.path(), &format!("truncate -s {mib}M image && mkfs.ext4 -q -m 0 image"));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir));
        Self { dir, _tmp: tmp }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it, which only works if nobody has anything on it open, and mounts it again.
    pub fn mount_again(&self) {
        succeed(Command::new("umount").arg(&self.dir));
        succeed(
            Command::new("mount").args(["-o", "loop"]).arg(self._tmp.path().join("image")).arg(&self.dir),
        );
    }

    pub fn remount(&self, option: &str) {
        succeed(Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.dir));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A server that is just ending may hold it for a moment.
        for _ in 0..100 {
            if run(Command::new("umount").arg(&self.dir)).status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
    }
}

#[test]
fn a_full_host_disk_loses_nothing_and_recovers() {
    let disk = SmallDisk::new(96);
    let host = Host::with_root(disk.path().join("root"));
    let dir = host.volume("v", &[]);
    fs::write(dir.join("kept"), crate::support::pattern(3_000_000, 1)).unwrap();
    succeed(Command::new("sync").arg(dir.join("kept")));
    let full = shell(&dir, "dd if=/dev/urandom of=big bs=1M count=200 conv=fsync 2>&1 || true");
    assert!(full.contains("No space left"), "{full}");
    // Something else fills the disk to the last block.
    shell(
        disk.path(),
        "dd if=/dev/zero of=filler bs=1M 2>/dev/null || true; dd if=/dev/zero of=filler2 bs=4k 2>/dev/null || true",
    );
    assert_eq!(fs::read(dir.join("kept")).unwrap(), crate::support::pattern(3_000_000, 1));
    let has = |code: &str| {
        let reasons = host.json(&["inspect", "v"])["reasons"].clone();
        reasons.as_array().unwrap().iter().any(|reason| reason["code"] == code)
    };
    wait_until("it is said what is wrong", || has("host-full") && has("lost-writes"));
    // Deleting works on a full disk, and gives the space back.
    fs::remove_file(dir.join("big")).unwrap();
    wait_until("the host has space again", || {
        nix::sys::statvfs::statvfs(disk.path()).unwrap().blocks_available() > 5_000
    });
    fs::write(dir.join("new"), "data").unwrap();
    succeed(Command::new("sync").arg(dir.join("new")));
    wait_until("nothing is wrong any more", || host.json(&["inspect", "v"])["health"] == "ok");
    host.check("v");
    let dir = host.remount("v");
    assert_eq!(fs::read(dir.join("kept")).unwrap(), crate::support::pattern(3_000_000, 1));
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "data");
    host.umount("v");
    host.check("v");
    // No volume can be made when there is no room for it, and nothing of it stays.
    shell(
        disk.path(),
        "dd if=/dev/zero of=filler3 bs=1M 2>/dev/null || true; dd if=/dev/zero of=filler4 bs=4k 2>/dev/null || true",
    );
    let line = host.fails(11, &["create", "w"]);
    assert!(line.contains("o space left") || line.contains("full"), "{line}");
    assert_eq!(fs::read_dir(host.root().join("stores")).unwrap().count(), 1);
}

#[test]
fn a_closed_store_opens_on_a_full_disk() {
    let disk = SmallDisk::new(64);
    let host = Host::with_root(disk.path().join("root"));
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), crate::support::pattern(20_000_000, 1)).unwrap();
    host.umount("v");
    shell(
        disk.path(),
        "dd if=/dev/zero of=filler bs=1M 2>/dev/null || true; dd if=/dev/zero of=filler2 bs=4k 2>/dev/null || true",
    );
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read(dir.join("f")).unwrap(), crate::support::pattern(20_000_000, 1));
    fs::remove_file(dir.join("f")).unwrap();
    wait_until("the host has space again", || {
        nix::sys::statvfs::statvfs(disk.path()).unwrap().blocks_available() > 4_000
    });
    host.umount("v");
    host.check("v");
}

#[test]
fn a_read_only_host_disk() {
    let disk = SmallDisk::new(64);
    let host = Host::with_root(disk.path().join("root"));
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    host.umount("v");
    disk.remount("ro");
    let line = host.fails(12, &["mount", "v", host.mountpoint("v").to_str().unwrap()]);
    assert!(line.contains("ead-only"), "{line}");
    let line = host.fails(12, &["create", "w"]);
    assert!(line.contains("ead-only"), "{line}");
    // Looking is possible.
    assert_eq!(host.json(&["inspect", "v"])["used"], 4096);
    host.check("v");
    disk.remount("rw");
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
}

#[test]
fn the_disk_of_a_store_can_be_unmounted_as_soon_as_its_volume_is() {
    let disk = SmallDisk::new(64);
    let host = Host::with_root(disk.path().join("root"));
    host.ok(&["create", "v"]);
    for round in 0..10 {
        let dir = host.mount("v", &[]);
        fs::write(dir.join("f"), format!("data {round}")).unwrap();
        host.umount("v");
        disk.mount_again();
    }
}

#[test]
fn garbage_on_the_control_socket() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let socket = host.store("v").join("control");
    for garbage in [&b"nonsense\n"[..], b"{\"ask\":\"mount\"}\n", b"\n", b"\xff\xff\n", b"{\"ask\":"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("error"), "{answer}");
    }
    fs::write(dir.join("f"), "still here").unwrap();
    assert_eq!(host.json(&["inspect", "v"])["health"], "ok");
}

#[test]
fn a_message_without_an_end_ends_the_conversation() {
    use std::io::{BufRead, BufReader};
    let host = Host::new();
    host.volume("v", &[]);
    // By way of the directory's handle, because the path may be too long for a socket's address.
    let dir = fs::File::open(host.store("v")).unwrap();
    let path = format!("/proc/self/fd/{}/control", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        // The server may well hang up before it has taken all of it.
        let _ = sender.write_all(&vec![b'x'; 9 << 20]);
    });
    let lines: Vec<_> = BufReader::new(stream).lines().take(3).map_while(Result::ok).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("error"), "{lines:?}");
    sending.join().unwrap();
    host.umount("v");
}
