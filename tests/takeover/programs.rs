//! Real programs, while servers die under them.

use super::lose_server;
use crate::support::{Host, shell};
use std::process::Command;
use std::time::Duration;

/// Runs a script in the volume, and kills servers until it is done.
fn kill_under(host: &Host, script: &str) {
    let dir = host.mountpoint("v");
    let mut child =
        Command::new("bash").args(["-euc", script]).current_dir(&dir).spawn().expect("bash is there");
    let mut kills = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        lose_server(host, "v");
        kills += 1;
        std::thread::sleep(Duration::from_millis(kills * 37 % 200));
    };
    assert!(status.success(), "after {kills} kills: {status}");
    assert!(kills > 2, "{kills} kills only");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let host = Host::new();
    host.volume("v", &[]);
    kill_under(
        &host,
        "fio --name=buffered --rw=randwrite --bs=4k --size=64M --rate_iops=8000 --verify=crc32c --fsync=50 --output-format=terse >/dev/null
         fio --name=direct --direct=1 --rw=randrw --bs=16k --size=32M --iodepth=8 --ioengine=libaio --rate_iops=1000 --verify=crc32c \
             --output-format=terse >/dev/null
         fio --name=map --ioengine=mmap --rw=randwrite --bs=4k --size=16M --rate_iops=3000 --verify=crc32c --output-format=terse >/dev/null",
    );
    host.umount("v");
    host.check("v");
}

#[test]
fn git_commits_packs_and_clones() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    kill_under(
        &host,
        "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
         git init -q -b main one; cd one
         for i in {1..15}; do
             mkdir -p d$i; for j in {1..20}; do echo $i $j > d$i/f$j; done; git add .; git commit -qm $i
         done
         git gc -q; cd ..; git clone -q --no-local one two; git -C two fsck --full; cp -r two three; rm -rf three",
    );
    assert_eq!(shell(&dir, "git -C two log --oneline | wc -l"), "15\n");
    host.umount("v");
    host.check("v");
}

#[test]
fn sqlite_loses_no_transaction() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    kill_under(
        &host,
        "sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t (i INTEGER)' >/dev/null
         for i in {1..150}; do sqlite3 db \"PRAGMA synchronous=FULL; INSERT INTO t VALUES ($i)\" >/dev/null; done
         sqlite3 db 'PRAGMA integrity_check' | grep -qx ok",
    );
    assert_eq!(shell(&dir, "sqlite3 db 'SELECT count(*), sum(i) FROM t'"), "150|11325\n");
    host.umount("v");
    host.check("v");
}
