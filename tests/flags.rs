//! Flags of inodes: `chattr +i`, `+a` and others.

use crate::support::{Host, pattern, same_as_native, shell, wait_until};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a program may do to flagged files, as ext4 says it.
const FORBIDDEN: &str = r#"
import os, errno, fcntl, ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
def t(f, *a, **k):
    try: r = f(*a, **k)
    except OSError as e: return errno.errorcode[e.errno]
    return 'fd' if f is os.open and (os.close(r) or True) else r
def fallocate(fd, mode, off, n):
    if libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(n)): raise OSError(ctypes.get_errno(), '')
def rename(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags): raise OSError(ctypes.get_errno(), '')
def put(path, text='text'):
    with open(path, 'w') as f: f.write(text)
def tmpfile(d): os.close(os.open(d, os.O_TMPFILE | os.O_RDWR))
for d in ('di', 'da', 'free'): os.mkdir(d); put(d + '/f'); put(d + '/g'); os.mkdir(d + '/sub')
for f in ('i', 'a', 'other'): put(f)
before = os.open('i', os.O_RDWR)
os.system('chattr +i i di; chattr +a a da; lsattr -d i di a da free | tr e -')
for f in ('i', 'a'):
    print(f, [t(os.open, f, flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_APPEND | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT)])
    print(f, t(os.truncate, f, 0), t(os.truncate, f, 4), t(os.truncate, f, 9), t(os.chmod, f, 0o600), t(os.chown, f, 1, 1), t(os.utime, f, (1, 1)), t(os.utime, f))
    print(f, t(os.setxattr, f, 'user.x', b'x'), t(os.removexattr, f, 'user.x'), t(os.setxattr, f, 'system.posix_acl_access', b'\x02\0\0\0'))
    print(f, t(os.unlink, f), t(os.rename, f, 'new'), t(os.rename, 'other', f), t(os.link, f, 'new'), t(rename, 'other', f, 2), t(rename, f, 'free/g', 4), t(os.rename, f, f))
# Through the kernel's cache, it is only known when the write gets to the server.
print(t(lambda: (os.pwrite(before, b'x', 0), os.fsync(before))), t(os.ftruncate, before, 0), t(fallocate, before, 1, 0, 8192))
for i in range(1000):
    if os.pread(before, 10, 0) == b'text': break
    time.sleep(.01)
print(os.pread(before, 10, 0))
a = os.open('a', os.O_RDWR | os.O_APPEND)
print(t(os.write, a, b' and more'), t(os.pwrite, a, b'!', 0), t(os.ftruncate, a, 0), t(os.ftruncate, a, 100), t(fallocate, a, 1, 0, 8192), t(fallocate, a, 0, 0, 20), t(fallocate, a, 3, 0, 4096), t(fallocate, a, 0x10, 0, 4096))
o = os.open('other', os.O_RDONLY); print(t(os.copy_file_range, o, a, 4, 0, 0)); os.fsync(a)
print(os.pread(a, 100, 0)[:14], os.fstat(a).st_size)
for d in ('di', 'da'):
    print(d, t(put, d + '/new'), t(os.mkdir, d + '/newdir'), t(os.symlink, 'x', d + '/sym'), t(os.link, 'other', d + '/link'), t(os.mkfifo, d + '/fifo'), t(os.rename, 'free/f', d + '/moved'), t(tmpfile, d))
    print(d, t(os.unlink, d + '/f'), t(os.rmdir, d + '/sub'), t(os.rename, d + '/f', d + '/h'), t(os.rename, d + '/f', 'free/h'), t(os.rename, 'other', d + '/g'), t(rename, 'other', d + '/g', 2), t(rename, d + '/f', 'free/k', 4))
    print(d, t(put, d + '/f', 'changed'), t(os.chmod, d, 0o700), t(os.rmdir, d), t(os.rename, d, 'elsewhere'), t(os.setxattr, d, 'user.x', b'x'), t(put, d + '/sub/in'), sorted(os.listdir(d)))
os.system('''chown 1000 free/g; setpriv --reuid=1000 --clear-groups chattr +i free/g 2>&1 | grep -o "Operation.*"
setpriv --bounding-set -linux_immutable --inh-caps -linux_immutable chattr -i i 2>&1 | grep -o "Operation.*"
setpriv --bounding-set -linux_immutable --inh-caps -linux_immutable chattr +d other && lsattr other | tr e -
unshare -Ur chattr -a a 2>&1 | grep -o "Operation.*"
chattr -i -a i di a da; chattr +dA free; lsattr -d i a free | tr e -; chattr -dA free; ln i i2; mv a a2; rm -r di da; rm i i2 a2; ls''')
"#;

fn script(dir: &Path, text: &str) -> String {
    let path = dir.parent().unwrap().join("flags.py");
    fs::write(&path, text).unwrap();
    shell(dir, &format!("python3 {} 2>&1", path.display()))
}

/// A volume of a family that has had flags: then the kernel asks before it opens a file.
fn flagged(host: &Host, options: &[&str]) -> std::path::PathBuf {
    let dir = host.volume("v", &[]);
    shell(&dir, "touch x; chattr +d x; chattr -d x; rm x");
    host.umount("v");
    host.mount("v", options)
}

#[test]
fn flags_forbid_what_they_forbid_on_ext4() {
    for options in [&[][..], &["-o", "writeback=off"]] {
        let host = Host::new();
        let native = host.dir("native");
        let volume = flagged(&host, options);
        let (expected, found) = (script(&native, FORBIDDEN), script(&volume, FORBIDDEN));
        assert_eq!(found, expected, "{options:?}: the volume (left), ext4 (right)");
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn flags_stay_over_remounts_kills_snapshots_and_clones() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let show = |dir: &Path| shell(dir, "lsattr -d i a d n | tr e -");
    shell(&dir, "echo x > i; echo x > a; mkdir d; touch d/f n; chattr +i i d; chattr +a a; chattr +dA n");
    let before = show(&dir);
    assert!(before.contains('i') && before.contains('a'), "{before}");
    host.ok(&["snapshot", "create", "v@s"]);
    host.ok(&["clone", "v@s", "w"]);
    host.kill_server("v");
    crate::support::run(std::process::Command::new("umount").arg("-l").arg(&dir));
    let dir = host.mount("v", &[]);
    assert_eq!(show(&dir), before);
    assert_eq!(show(&dir.join(".snapshots/s")), before);
    shell(
        &dir,
        "if chattr -i .snapshots/s/i; then exit 1; fi; for f in i a d/f; do if rm -f $f; then exit 1; fi; done",
    );
    let clone = host.mount("w", &[]);
    assert_eq!(show(&clone), before);
    shell(&clone, "chattr -i i d; chattr -a a; rm -r i a d");
    assert_eq!(show(&dir), before);
    assert_eq!(host.ok(&["diff", "v@s", "v"]), "");
    shell(&dir, "chattr -i i");
    assert!(host.ok(&["diff", "v@s", "v"]).contains("/i"));
    for volume in ["v", "w"] {
        host.umount(volume);
        host.check(volume);
    }
}

#[test]
fn a_file_that_only_grows_keeps_what_it_has() {
    for options in [&[][..], &["-o", "writeback=off"]] {
        let host = Host::new();
        let dir = flagged(&host, options);
        let path = dir.join("log");
        fs::write(&path, pattern(5000, 1)).unwrap();
        shell(&dir, "chattr +a log");
        let mut expected = pattern(5000, 1);
        // More than one request takes.
        let long = pattern(5_000_000, 2);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &long).unwrap();
        drop(file);
        expected.extend_from_slice(&long);
        // Several programs append, within pages and over them; what the kernel writes back has what was there before, too.
        for round in 0..60u64 {
            let piece = pattern(1 + (round * 377 % 9000) as usize, round);
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut file, &piece).unwrap();
            if round % 7 == 0 {
                file.sync_all().unwrap();
            }
            expected.extend_from_slice(&piece);
        }
        assert!(fs::read(&path).unwrap() == expected);
        host.umount("v");
        let dir = host.mount("v", options);
        assert!(fs::read(dir.join("log")).unwrap() == expected, "{options:?}");
        shell(&dir, "if echo x > log || truncate -s 0 log || rm -f log; then exit 1; fi");
        assert!(fs::read(dir.join("log")).unwrap() == expected);
        host.umount("v");
        host.check("v");
    }
}

/// The kernel has been told that it need not ask: the first flag of a family comes too late for that. What it writes back is
/// refused nevertheless.
#[test]
fn what_reaches_the_server_is_refused_also_in_the_mount_of_the_first_flag() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("i"), "kept").unwrap();
    let _ = fs::read(dir.join("i")).unwrap();
    let open = fs::OpenOptions::new().read(true).write(true).open(dir.join("i")).unwrap();
    // What was written before is kept, also what the kernel still has.
    open.write_all_at(b"KEPT", 0).unwrap();
    shell(&dir, "chattr +i i");
    let _ = open.write_all_at(b"lost", 0);
    let written = open.sync_all();
    assert!(written.is_err());
    wait_until("the kernel has dropped what was refused", || fs::read(dir.join("i")).unwrap() == b"KEPT");
    assert!(open.set_len(0).is_err() && fs::remove_file(dir.join("i")).is_err());
    drop(open);
    let dir = host.remount("v");
    assert_eq!(fs::read(dir.join("i")).unwrap(), b"KEPT");
    assert!(fs::OpenOptions::new().write(true).open(dir.join("i")).is_err());
    host.umount("v");
    host.check("v");
}

/// `ioctl(FS_IOC_FSGETXATTR)`, and what there is not.
#[test]
fn both_forms_of_the_call_are_served() {
    same_as_native(|dir| {
        script(
            dir,
            r#"
import os, fcntl, struct, errno
def t(f, *a):
    try: return f(*a)
    except OSError as e: return errno.errorcode[e.errno]
open('f', 'w').close(); f = os.open('f', os.O_RDONLY); d = os.open('.', os.O_RDONLY)
GET, SET, FSGET, FSSET = 0x80086601, 0x40086602, 0x801c581f, 0x401c5820
def flags(fd): return struct.unpack('I', fcntl.ioctl(fd, GET, b'\0' * 8)[:4])[0] & 0xf0
def xflags(fd): return struct.unpack('IIIII8x', fcntl.ioctl(fd, FSGET, b'\0' * 28))[0] & 0x7fffffff
for fd in (f, d):
    print(flags(fd), xflags(fd), t(fcntl.ioctl, fd, FSSET, struct.pack('IIIII8x', 0x88, 0, 0, 0, 0)) and 1, flags(fd), xflags(fd))
    print(t(fcntl.ioctl, fd, SET, struct.pack('Q', 0)) and 1, flags(fd), xflags(fd))
print(t(fcntl.ioctl, f, 0x12345678))
"#,
        )
    });
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(
        &dir,
        "touch f; if chattr +c f || chattr +C f; then exit 1; fi; lsattr f | tr e - | grep -- '^-* f'",
    );
}
