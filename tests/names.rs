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
fn o_tmpfile_is_refused_as_by_a_file_system_without_it() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let flags = nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_RDWR;
    let result = nix::fcntl::open(&dir, flags, nix::sys::stat::Mode::from_bits_truncate(0o600));
    // Programs then make a file with a name.
    assert_eq!(result.unwrap_err(), nix::errno::Errno::EOPNOTSUPP);
    assert_eq!(
        shell(
            &dir,
            "python3 -c 'import tempfile; f = tempfile.TemporaryFile(dir=\".\"); f.write(b\"x\"); print(1)'"
        ),
        "1\n"
    );
}
