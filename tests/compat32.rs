//! Programs of 32 bits, those without large files included.

use crate::disk::Disk;
use crate::model::harness::new_disk;
use crate::support::{Host, run, shell, succeed};
use larder::fs::{Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO};
use larder::open_store::{OpenStore, StoreOptions};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Lists a directory, goes back to each place in it, and looks at the file system; prints what fails.
const PROGRAM: &str = r#"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#define MOST 5000
static char names[MOST][64]; static long places[MOST];
int main(int count, char **args) {
    struct stat s; struct statvfs v; DIR *d = opendir(args[1]); struct dirent *e; int n = 0, bad = 0;
    if (stat(args[1], &s)) printf("stat: %s\n", strerror(errno));
    if (statvfs(args[1], &v)) printf("statvfs: %s\n", strerror(errno));
    for (;;) {
        errno = 0; places[n] = telldir(d);
        if (errno) { printf("telldir: %s\n", strerror(errno)); break; }
        errno = 0; e = readdir(d);
        if (errno) { printf("readdir: %s\n", strerror(errno)); break; }
        if (!e) break;
        strcpy(names[n++], e->d_name);
    }
    for (int i = n - 1; i >= 0; i -= 7) { seekdir(d, places[i]); e = readdir(d); bad += !e || strcmp(e->d_name, names[i]); }
    printf("%d entries, %d elsewhere\n", n, bad);
    return 0;
}
"#;

/// The program, for 32 bits with small numbers and with large ones.
fn programs(dir: &Path) -> [PathBuf; 2] {
    let source = dir.join("list.c");
    fs::write(&source, PROGRAM).unwrap();
    [("small", None), ("large", Some("-D_FILE_OFFSET_BITS=64"))].map(|(name, flag)| {
        let program = dir.join(name);
        succeed(Command::new("gcc").arg("-m32").args(flag).arg("-o").arg(&program).arg(&source));
        program
    })
}

#[test]
fn a_program_of_32_bits_lists_directories_and_asks_for_space() {
    let host = Host::new();
    let [small, large] = programs(&host.dir("programs"));
    host.ok(&["create", "v"]);
    let dir = host.mount("v", &["-o", "compat32"]);
    shell(&dir, "mkdir d; cd d; for i in {1..2000}; do echo > name-$i; done");
    let list = |program: &Path| succeed(Command::new(program).arg(dir.join("d")));
    for program in [&small, &large] {
        // Also from the kernel's cache of listings.
        for _ in 0..2 {
            assert_eq!(list(program), "2002 entries, 0 elsewhere\n", "{}", program.display());
        }
    }
    // Those of 64 bits see the same.
    assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 2000);
    host.umount("v");
    // It is needed: numbers of 64 bits do not fit. Counts do, up to 16 TiB.
    let dir = host.mount("v", &[]);
    let found = String::from_utf8(run(Command::new(&small).arg(dir.join("d"))).stdout).unwrap();
    assert!(found.contains("readdir: Value too large") && !found.contains("stat"), "{found}");
    host.umount("v");
    host.check("v");
}

fn open(disk: &Disk) -> Arc<OpenStore> {
    let keys = crate::model::harness::keys_of(disk).unwrap();
    OpenStore::open_with(Arc::new(disk.clone()), None, keys, StoreOptions::default()).unwrap()
}

/// With so many names, some have the same 31 bits.
#[test]
fn names_with_one_cookie_are_listed_together() {
    let disk = new_disk(None, None);
    let store = open(&disk);
    let options = FsOptions { compat32: true, ..FsOptions::default() };
    let fs = Fs::new(Arc::clone(&store), 1, options);
    let node = NewNode { kind: Kind::Fifo, permissions: 0o644, umask: 0, rdev: 0, target: None };
    let mut made = 0;
    let mut twins = 0;
    while twins == 0 {
        for _ in 0..100_000 {
            fs.make(ROOT_INO, format!("name-{made}").as_bytes(), &node, Caller::ROOT).unwrap();
            made += 1;
        }
        for room in [1usize, 7, 100] {
            let (mut cookie, mut seen) = (0, BTreeSet::new());
            loop {
                let (mut left, mut last) = (room, None);
                fs.list(ROOT_INO, cookie, false, |group| {
                    // As a reply does: all of a group, or none, unless it is the first.
                    if group.len() > left && last.is_some() {
                        return 0;
                    }
                    left = left.saturating_sub(group.len());
                    twins += usize::from(group.len() > 1);
                    for (entry, _) in group {
                        assert!(entry.cookie < 1 << 31);
                        assert!(seen.insert(entry.name.clone()), "{:?} is listed twice", entry.name);
                    }
                    last = group.last().map(|(entry, _)| entry.cookie);
                    group.len()
                })
                .unwrap();
                match last {
                    Some(last) => cookie = last,
                    None => break,
                }
            }
            assert_eq!(seen.len(), made + 2, "{room} at a time");
        }
    }
    // Whoever goes on behind the first of them begins with it again, rather than losing the second.
    let mut places = Vec::new();
    fs.list(ROOT_INO, 0, false, |group| {
        if let [one, two, ..] = group {
            places.push((one.0.cookie, one.0.name.clone(), two.0.name.clone()));
        }
        group.len()
    })
    .unwrap();
    for (cookie, one, two) in places {
        let mut next = Vec::new();
        fs.readdir(ROOT_INO, cookie, |entry| {
            next.push(entry.name.clone());
            next.len() < 2
        })
        .unwrap();
        assert_eq!(next, [one, two]);
    }
    fs.forget_all();
    store.close().unwrap();
}
