//! File handles: name_to_handle_at(2) and open_by_handle_at(2), which servers of NFS live on.

use crate::support::{Host, succeed};
use std::fs;
use std::path::Path;
use std::process::Command;

/// `handles.py make DIR FILE` notes the handles of all paths of a tree; `handles.py open DIR FILE` opens them, and prints what is
/// not what it was, or gone.
const HANDLES: &str = r#"
import ctypes, os, sys, pickle, struct, errno
libc = ctypes.CDLL(None, use_errno=True)
def handle(path):
    b = ctypes.create_string_buffer(136); struct.pack_into('I', b, 0, 128); mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), b, ctypes.byref(mount), 0): raise OSError(ctypes.get_errno(), path)
    return b.raw
def seen(fd):
    s = os.fstat(fd); name = os.readlink(f'/proc/self/fd/{fd}')
    return (s.st_ino, s.st_mode, os.read(fd, 100) if os.path.isfile(f'/proc/self/fd/{fd}') else sorted(os.listdir(fd)))
what, root, notes = sys.argv[1:4]
paths = [root] + [os.path.join(at, name) for at, dirs, files in os.walk(root) for name in dirs + files]
if what == 'make':
    found = {}
    for path in paths + sys.argv[4:]:
        fd = os.open(path, os.O_RDONLY); found[path] = (handle(path), seen(fd)); os.close(fd)
    pickle.dump(found, open(notes, 'wb'))
else:
    os.sync(); open('/proc/sys/vm/drop_caches', 'w').write('2')
    mount = os.open(root, os.O_RDONLY)
    for path, (made, was) in sorted(pickle.load(open(notes, 'rb')).items()):
        fd = libc.open_by_handle_at(mount, made, os.O_RDONLY)
        if fd < 0: print(path[len(root):], errno.errorcode[ctypes.get_errno()])
        elif seen(fd) != was: print(path[len(root):], seen(fd), was)
        if fd >= 0: os.close(fd)
"#;

fn handles(host: &Host, what: &str, dir: &Path, more: &[&Path]) -> String {
    let (script, notes) = (host.dir("h").join("handles.py"), host.dir("h").join("notes"));
    fs::write(&script, HANDLES).unwrap();
    succeed(Command::new("python3").arg(script).arg(what).arg(dir).arg(notes).args(more))
}

fn tree(dir: &Path) {
    for (path, text) in [("a/b/c/f", "deep"), ("a/g", "shallow"), ("gone", "gone"), ("moved", "moved")] {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), text).unwrap();
    }
}

/// Moves one file, removes another one, and makes one that could be mistaken for it.
fn change(dir: &Path) {
    fs::rename(dir.join("moved"), dir.join("a/b/moved")).unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::write(dir.join("gone"), "another").unwrap();
}

#[test]
fn handles_are_good_when_the_kernel_has_forgotten_and_over_a_remount() {
    let transports = crate::uring::transports();
    for transport in transports {
        let host = Host::new();
        host.ok(&["create", "v"]);
        let options = format!("transport={transport}");
        let dir = host.mount("v", &["-o", &options]);
        tree(&dir);
        handles(&host, "make", &dir, &[]);
        assert_eq!(handles(&host, "open", &dir, &[]), "", "{transport}");
        host.umount("v");
        let dir = host.mount("v", &["-o", &options]);
        assert_eq!(handles(&host, "open", &dir, &[]), "", "{transport}");
        change(&dir);
        // The directories' contents have changed, and what was removed is stale.
        let found = handles(&host, "open", &dir, &[]);
        let expected = [" (", "/a/b (", "/gone ESTALE"];
        assert_eq!(found.lines().count(), expected.len(), "{found}");
        assert!(found.lines().zip(expected).all(|(line, start)| line.starts_with(start)), "{found}");
        host.umount("v");
        host.check("v");
    }
}

#[test]
fn handles_are_good_when_another_server_has_taken_over() {
    if std::env::var("LARDER_TEST_TRANSPORT").as_deref() == Ok("fuser") {
        return;
    }
    let host = Host::new();
    let dir = host.volume("v", &[]);
    tree(&dir);
    host.ok(&["snapshot", "create", "v@s"]);
    let of_snapshot = [dir.join(".snapshots/s/a/g"), dir.join(".snapshots/s/a/b/c/f")];
    let of_snapshot: Vec<&Path> = of_snapshot.iter().map(|path| path.as_path()).collect();
    handles(&host, "make", &dir, &of_snapshot);
    assert_eq!(handles(&host, "open", &dir, &[]), "");
    crate::takeover::lose_server(&host, "v");
    assert_eq!(handles(&host, "open", &dir, &[]), "");
    // What is open meanwhile is the same inode still.
    let open = fs::File::open(dir.join("a/g")).unwrap();
    crate::takeover::lose_server(&host, "v");
    assert_eq!(handles(&host, "open", &dir, &[]), "");
    assert_eq!(std::io::read_to_string(open).unwrap(), "shallow");
    // After a rollback everything is of another state.
    let live: Vec<&str> = vec!["/a", "/a/b", "/a/b/c", "/a/b/c/f", "/a/g", "/gone", "/moved"];
    host.ok(&["rollback", "--live", "v@s"]);
    let found = handles(&host, "open", &dir, &[]);
    let stale: Vec<&str> = found.lines().filter_map(|line| line.strip_suffix(" ESTALE")).collect();
    assert_eq!(stale, live, "{found}");
    host.umount("v");
    host.check("v");
}
