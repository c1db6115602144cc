//! flock(2) and fcntl(2) locks between processes.

use crate::support::{Host, shell};
use std::fs;

const SCRIPT: &str = "
import fcntl, os, sys, time, struct
def child(f):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try: os.write(w, f().encode())
        finally: os._exit(0)
    os.close(w)
    out = os.read(r, 1000).decode()
    os.waitpid(pid, 0)
    return out
def attempt(f):
    try: f(); return 'got'
    except OSError as e: return 'refused'
fd = os.open('f', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1000)
out = []
fcntl.flock(fd, fcntl.LOCK_EX)
out.append(child(lambda: attempt(lambda: fcntl.flock(os.open('f', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))))
fcntl.flock(fd, fcntl.LOCK_SH)
out.append(child(lambda: attempt(lambda: fcntl.flock(os.open('f', os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB))))
fcntl.flock(fd, fcntl.LOCK_UN)
fcntl.lockf(fd, fcntl.LOCK_EX, 100, 0)
out.append(child(lambda: attempt(lambda: fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50))))
out.append(child(lambda: attempt(lambda: fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100))))
# Closing any descriptor lets go of them all, as POSIX has it.
os.close(os.open('f', os.O_RDONLY))
out.append(child(lambda: attempt(lambda: fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50))))
print(' '.join(out))
";

#[test]
fn locks_exclude_other_processes() {
    let host = Host::new();
    let (native, volume) = (host.dir("native"), host.volume("v", &[]));
    let script = host.dir("s").join("s.py");
    fs::write(&script, SCRIPT).unwrap();
    let run = format!("python3 {}", script.display());
    assert_eq!(shell(&native, &run), "refused got refused got got\n");
    assert_eq!(shell(&volume, &run), "refused got refused got got\n");
}
