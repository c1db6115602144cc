//! Names and directories.

use crate::support::{Host, errno, same_as_native, shell};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> i32 {
    errno(renameat2(AT_FDCWD, from, AT_FDCWD, to, flags).map_err(io::Error::from))
}

#[test]
fn any_bytes_make_a_name_but_slash_and_nul() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let mut names: BTreeSet<OsString> = BTreeSet::new();
    for byte in (1..=255u8).filter(|b| *b != b'/') {
        names.insert(OsString::from_vec(vec![b'x', byte]));
        names.insert(OsString::from_vec(vec![byte; 255]));
    }
    for name in &names {
        fs::write(dir.join(name), name.as_bytes()).unwrap();
    }
    let dir = host.remount("v");
    let listed: BTreeSet<OsString> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed, names);
    for name in &names {
        assert_eq!(fs::read(dir.join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn names_are_up_to_255_bytes_long() {
    same_as_native(|dir| {
        let long = |n: usize| dir.join(OsStr::from_bytes(&vec![b'n'; n]));
        fs::write(dir.join("f"), "").unwrap();
        [
            errno(fs::write(long(255), "")),
            errno(fs::write(long(256), "")),
            errno(fs::metadata(long(256))),
            errno(fs::create_dir(long(300))),
            errno(fs::rename(dir.join("f"), long(256))),
            errno(fs::hard_link(dir.join("f"), long(1000))),
            errno(std::os::unix::fs::symlink("t", long(256))),
            errno(fs::remove_file(long(256))),
            errno(fs::write(long(5000), "")),
        ]
    });
}

#[test]
fn every_kind_of_inode_can_be_made() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(&dir, "mkfifo pipe; mknod char c 1 3; mknod block b 7 0; mkdir dir; ln -s target link; touch file");
    shell(&dir, "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'");
    let dir = host.remount("v");
    let kind = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().file_type();
    assert!(kind("pipe").is_fifo() && kind("char").is_char_device() && kind("block").is_block_device());
    assert!(
        kind("dir").is_dir()
            && kind("link").is_symlink()
            && kind("file").is_file()
            && kind("socket").is_socket()
    );
    assert_eq!(fs::metadata(dir.join("char")).unwrap().rdev(), nix::sys::stat::makedev(1, 3));
    assert_eq!(shell(&dir, "head -c 3 /dev/zero > char; cat pipe & echo through > pipe; wait"), "through\n");
}

#[test]
fn rename_does_what_ext4_does() {
    same_as_native(|dir| {
        let at = |name: &str| dir.join(name);
        for name in ["f1", "f2"] {
            fs::write(at(name), name).unwrap();
        }
        for name in ["d1", "d2", "full", "d1/sub"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("full/x"), "").unwrap();
        let none = RenameFlags::empty();
        let (noreplace, exchange) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_EXCHANGE);
        let mut out = vec![
            rename_with(&at("missing"), &at("x"), none),
            rename_with(&at("f1"), &at("d1"), none),
            rename_with(&at("d1"), &at("f1"), none),
            rename_with(&at("d1"), &at("full"), none),
            rename_with(&at("d1"), &at("d1/sub/deep"), none),
            rename_with(&at("f1"), &at("f2"), noreplace),
            rename_with(&at("f1"), &at("f3"), noreplace),
            rename_with(&at("f3"), &at("missing"), exchange),
            rename_with(&at("f2"), &at("full"), exchange),
            rename_with(&at("d1"), &at("d1/sub"), exchange),
            rename_with(&at("d2"), &at("f2"), none),
            rename_with(&at("f3"), &at("f3"), none),
            rename_with(&at("f3"), &at("f3"), noreplace),
            rename_with(&at("f3"), &at("f2/x"), none),
            rename_with(&at("d1/sub"), &at("d3"), none),
            rename_with(&at("d3"), &at("d2"), none),
        ];
        fs::write(at("l1"), "linked").unwrap();
        fs::hard_link(at("l1"), at("l2")).unwrap();
        out.push(rename_with(&at("l1"), &at("l2"), none));
        out.push(rename_with(&at("l1"), &at("l2"), exchange));
        let tree = shell(dir, "find . -printf '%p %y %n\\n' | sort; find . -type f | sort | xargs cat");
        (out, tree)
    });
}

#[test]
fn a_directory_can_be_listed_while_it_changes() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    for i in 0..5000 {
        fs::write(dir.join(format!("stays-{i}")), "").unwrap();
        fs::write(dir.join(format!("goes-{i}")), "").unwrap();
    }
    // Also through the kernel's own cache of listings.
    for _ in 0..2 {
        let mut seen = BTreeSet::new();
        for (at, entry) in fs::read_dir(&dir).unwrap().enumerate() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if at.is_multiple_of(3) {
                let _ = fs::remove_file(dir.join(format!("goes-{}", at / 3)));
                let _ = fs::write(dir.join(format!("new-{at}")), "");
            }
            assert!(seen.insert(name.clone()), "{name} is listed twice");
        }
        for i in 0..5000 {
            assert!(seen.contains(&format!("stays-{i}")), "stays-{i} is not listed");
        }
    }
}

#[test]
fn a_listing_can_be_resumed_anywhere() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let script = "
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.telldir.argtypes = [ctypes.c_void_p]; libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.rewinddir.argtypes = [ctypes.c_void_p]
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_ulong), ('off', ctypes.c_long), ('len', ctypes.c_ushort), ('type', ctypes.c_ubyte), ('name', ctypes.c_char * 256)]
libc.readdir.argtypes = [ctypes.c_void_p]; libc.readdir.restype = ctypes.POINTER(Dirent)
for i in range(3000): open(f'f{i}', 'w').close()
d = libc.opendir(b'.')
places, names = [], []
while True:
    place = libc.telldir(d)
    e = libc.readdir(d)
    if not e: break
    places.append(place); names.append(e.contents.name)
    assert e.contents.ino != 0
assert len(set(names)) == 3002, len(set(names))
for k in (2999, 5, 1500, 0, 3001, 77):
    libc.seekdir(d, places[k])
    assert libc.readdir(d).contents.name == names[k], k
libc.rewinddir(d)
assert libc.readdir(d).contents.name == names[0]
print('ok')
";
    fs::write(host.dir("s").join("s.py"), script).unwrap();
    let script = host.dir("s").join("s.py");
    assert_eq!(shell(&dir, &format!("python3 {}", script.display())), "ok\n");
}

#[test]
fn directories_count_their_links() {
    same_as_native(|dir| {
        fs::create_dir(dir.join("a")).unwrap();
        let links = |path: &str| fs::metadata(dir.join(path)).unwrap().nlink();
        let mut out = vec![links("a")];
        for i in 0..10 {
            fs::create_dir(dir.join(format!("a/{i}"))).unwrap();
        }
        out.push(links("a"));
        fs::rename(dir.join("a/0"), dir.join("b")).unwrap();
        fs::remove_dir(dir.join("a/1")).unwrap();
        out.push(links("a"));
        out.push(links("b"));
        out.push(errno(fs::remove_dir(dir.join("a"))) as u64);
        out.push(errno(fs::remove_file(dir.join("a"))) as u64);
        fs::write(dir.join("f"), "").unwrap();
        out.push(errno(fs::remove_dir(dir.join("f"))) as u64);
        out
    });
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_takes_nothing() {
    same_as_native(|dir| {
        let gone = dir.join("gone");
        fs::create_dir(&gone).unwrap();
        let open = File::open(&gone).unwrap();
        fs::remove_dir(&gone).unwrap();
        let inside = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&open).to_string());
        (
            errno(fs::write(inside.join("x"), "")),
            fs::read_dir(&inside).unwrap().count(),
            open.metadata().unwrap().nlink(),
        )
    });
}

#[test]
fn deep_trees_and_long_paths_work() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(&dir, "d=$(printf 'd%.0s' {1..200}); for i in {1..50}; do mkdir $d; cd $d; done; echo deep > f");
    let dir = host.remount("v");
    let found =
        shell(&dir, "d=$(printf 'd%.0s' {1..200}); for i in {1..50}; do cd $d; done; cat f; cd -P .. && ls");
    assert!(found.starts_with("deep\n"));
    shell(&dir, "rm -rf d*");
    host.umount("v");
    host.check("v");
}

#[test]
fn a_rename_that_leaves_a_whiteout_does_what_it_does_on_ext4() {
    same_as_native(|dir| {
        let at = |name: &str| dir.join(name);
        for name in ["f1", "f2", "f3", "f4", "l1"] {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("l1"), at("l2")).unwrap();
        for name in ["d1", "d2", "full", "group"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("full/x"), "").unwrap();
        shell(dir, "chgrp 2000 group; chmod 2755 group; mv f4 group; setfacl -d -m u:1000:rwx d2");
        let whiteout = RenameFlags::RENAME_WHITEOUT;
        let out = vec![
            rename_with(&at("f1"), &at("moved"), whiteout),
            rename_with(&at("f2"), &at("f3"), whiteout),
            rename_with(&at("f3"), &at("d2/deep"), whiteout),
            rename_with(&at("d2/deep"), &at("shallow"), whiteout),
            rename_with(&at("group/f4"), &at("f4"), whiteout),
            rename_with(&at("d1"), &at("d3"), whiteout),
            rename_with(&at("d3"), &at("full"), whiteout),
            rename_with(&at("d3"), &at("d3/below"), whiteout),
            rename_with(&at("l1"), &at("l2"), whiteout),
            rename_with(&at("l1"), &at("l1"), whiteout),
            rename_with(&at("missing"), &at("x"), whiteout),
            rename_with(&at("moved"), &at("f4"), whiteout | RenameFlags::RENAME_NOREPLACE),
            rename_with(&at("moved"), &at("again"), whiteout | RenameFlags::RENAME_NOREPLACE),
            rename_with(&at("again"), &at("f4"), whiteout | RenameFlags::RENAME_EXCHANGE),
            // A whiteout can itself be moved, replaced, linked and removed.
            rename_with(&at("f1"), &at("white"), RenameFlags::empty()),
            errno(fs::rename(at("again"), at("f2"))),
            errno(fs::hard_link(at("white"), at("white2"))),
            errno(fs::remove_file(at("white"))),
        ];
        let script = "find . -printf '%P %y %n %m %U %G\\n' | sort; stat -c '%n %t:%T' *; cat f2 shallow f4
                      getfacl $(find . | sort) 2>/dev/null";
        (out, shell(dir, script), fs::metadata(dir).unwrap().nlink())
    });
}

/// Overlayfs of an unprivileged container marks what is removed in this way.
#[test]
fn whiteouts_can_be_made_without_privileges() {
    same_as_native(|dir| {
        let made = crate::support::as_user(
            1000,
            1000,
            &format!("cd {} && mknod white c 0 0 && stat -c '%F %t:%T %u' white", dir.display()),
        );
        shell(dir, "chmod 777 .");
        let allowed = crate::support::as_user(
            1000,
            1000,
            &format!(
                "cd {} && mknod white c 0 0 && stat -c '%F %t:%T %u' white; mknod null c 1 3 2>&1 | grep -c perm",
                dir.display()
            ),
        );
        (made.status.success(), String::from_utf8(allowed.stdout).unwrap())
    });
}

/// Opens a file without a name in `dir`.
const TMPFILE: &str = "
import os, errno, gc
def t(f, *a, **k):
    try: return f(*a, **k)
    except OSError as e: return errno.errorcode[e.errno]
def unnamed(mode=0o666, flags=0, dir='.'): return os.open(dir, os.O_TMPFILE | os.O_RDWR | flags, mode)
here = os.open('.', os.O_RDONLY)
def name(fd, path): return t(os.link, f'/proc/self/fd/{fd}', path, dst_dir_fd=here)
def seen(fd): s = os.fstat(fd); return (oct(s.st_mode), s.st_nlink, s.st_size, s.st_uid, s.st_gid)
";

fn tmpfile(dir: &Path, script: &str) -> String {
    let path = dir.parent().unwrap().join("tmpfile.py");
    fs::write(&path, format!("{TMPFILE}{script}")).unwrap();
    shell(dir, &format!("python3 {}", path.display()))
}

/// Whether volumes have files without a name: not by a transport that does not know how.
fn has_tmpfile() -> bool {
    std::env::var("LARDER_TEST_TRANSPORT").as_deref() != Ok("fuser")
}

#[test]
fn a_file_without_a_name_is_as_any_other_and_can_get_one() {
    if !has_tmpfile() {
        return;
    }
    same_as_native(|dir| {
        tmpfile(
            dir,
            r#"
os.umask(0o027)
fd = unnamed(); print(seen(fd), os.listdir('.'))
os.write(fd, b'contents' * 1000); os.setxattr(fd, 'user.a', b'x'); os.fchmod(fd, 0o640); print(seen(fd))
print(name(fd, 'named'), seen(fd), os.listdir('.'), os.getxattr('named', 'user.a'), len(open('named').read()))
print(name(fd, 'second'), seen(fd), name(fd, 'second')); os.unlink('named'); os.unlink('second'); print(seen(fd))
print(name(fd, 'again'), os.pread(fd, 8, 0)); os.close(fd)
fd = unnamed(flags=os.O_EXCL); print(name(fd, 'never')); os.close(fd)
os.mkdir('g'); os.chown('g', 0, 2000); os.chmod('g', 0o2777); fd = unnamed(dir='g'); print(seen(fd), name(fd, 'g/f')); os.close(fd)
os.system('setfacl -d -m u:1000:r-x g'); fd = unnamed(dir='g'); print(seen(fd), name(fd, 'g/acl')); os.close(fd)
os.system('getfacl -c g/acl; find . -printf "%P %n %m\\n" | sort')
print(t(unnamed, dir='g/f'), t(unnamed, dir='missing'))
fd = unnamed(); print(name(fd, 'named'), name(fd, 'g')); os.close(fd)
"#,
        )
    });
}

#[test]
fn a_file_that_gets_no_name_leaves_nothing() {
    if !has_tmpfile() {
        return;
    }
    let host = Host::new();
    let dir = host.volume("v", &["--size", "64M", "--inodes", "10"]);
    let free = "s = os.statvfs('.'); print(s.f_bfree, s.f_ffree)";
    let before = tmpfile(&dir, free);
    tmpfile(
        &dir,
        "
import time
for i in range(20):
    fd = unnamed(); os.write(fd, b'x' * 10_000_000); os.fsync(fd); os.close(fd)
    # The kernel tells of a closed file when it gets to it.
    while os.statvfs('.').f_ffree < 9: time.sleep(.01)
open_ones = [unnamed() for i in range(9)]; assert t(unnamed) == 'ENOSPC'
",
    );
    assert_eq!(tmpfile(&dir, free), before);
    // Also what was open in a crash.
    let sleeper = std::process::Command::new("python3")
        .arg("-c")
        .arg(format!("{TMPFILE}\nfd = unnamed(); os.write(fd, b'x' * 1000); os.fsync(fd); print(1, flush=True); import time; time.sleep(1000)"))
        .current_dir(&dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut sleeper = crate::support::Background(sleeper);
    let mut line = [0; 1];
    io::Read::read_exact(sleeper.0.stdout.as_mut().unwrap(), &mut line).unwrap();
    host.kill_server("v");
    drop(sleeper);
    crate::support::run(std::process::Command::new("umount").arg("-l").arg(&dir));
    let dir = host.mount("v", &[]);
    crate::support::wait_until("it is gone", || tmpfile(&dir, free) == before);
    host.umount("v");
    host.check("v");
}

#[test]
fn programs_do_without_o_tmpfile_where_the_transport_does() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "transport=fuser"]);
    let flags = nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_RDWR;
    let result = nix::fcntl::open(&dir, flags, nix::sys::stat::Mode::from_bits_truncate(0o600));
    assert_eq!(result.unwrap_err(), nix::errno::Errno::EOPNOTSUPP);
    let script = "import tempfile; f = tempfile.TemporaryFile(dir=\".\"); f.write(b\"x\"); print(1)";
    assert_eq!(shell(&dir, &format!("python3 -c '{script}'")), "1\n");
}
