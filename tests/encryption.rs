//! Encrypted volumes: nothing of them can be read on disk, nothing can be changed there unnoticed, and only their secrets
//! open them.

use crate::support::{Host, errno, is_running, larder, pattern, run, shell, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod downgrade;
pub mod epochs;
mod nonces;
mod reencryption;
mod secrets;
mod standard;

/// A host with a key file.
fn host_with_key() -> (Host, String) {
    let host = Host::plain();
    let key = host.dir("keys").join("key");
    fs::write(&key, pattern(64, 77)).unwrap();
    (host, key.to_str().unwrap().to_owned())
}

/// Makes and mounts an encrypted volume.
fn volume(host: &Host, key: &str) -> PathBuf {
    host.ok(&["create", "v", "--encrypt", "--key-file", key, "--label", &format!("label={MARKER}")]);
    host.mount("v", &["--key-file", key])
}

fn check_closed(host: &Host, key: &str) {
    let report = host.json(&["check", "v", "--read-data", "--json", "--key-file", key]);
    assert_eq!(report["clean"], serde_json::Value::Bool(true), "{report:#}");
}

/// What must not be found on disk.
const MARKER: &str = "Sesame-3f1c9a";

/// Every file below `dir` that holds one of the needles.
fn files_with(dir: &Path, needles: &[&[u8]], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        assert!(!path.to_string_lossy().contains(MARKER), "{}", path.display());
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            files_with(&path, needles, found);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            let holds = |needle: &&[u8]| {
                let first = needle[0];
                let mut at = 0;
                while let Some(next) = bytes[at..].iter().position(|b| *b == first) {
                    at += next;
                    if bytes[at..].starts_with(needle) {
                        return true;
                    }
                    at += 1;
                }
                false
            };
            if needles.iter().any(holds) {
                found.push(path);
            }
        }
    }
}

#[track_caller]
fn must_not_show(host: &Host, key: &str) {
    let key = fs::read(key).unwrap();
    // Contents that a whole block is filled with, and what SQLite and the redo log would show of themselves.
    let block = [b'Z'; 64];
    let needles: [&[u8]; 5] = [MARKER.as_bytes(), &key, &block, b"SQLite format", b"CREATE TABLE"];
    let mut found = Vec::new();
    files_with(host.root(), &needles, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
}

/// Puts the marker everywhere a user can put something.
fn put_markers(dir: &Path, round: u32) {
    let sub = dir.join(format!("dir-{MARKER}-{round}"));
    fs::create_dir(&sub).unwrap();
    for i in 0..40 {
        let file = sub.join(format!("{i}-name-{MARKER}"));
        fs::write(&file, format!("contents-{MARKER}-{i}").repeat(1 + i * 50)).unwrap();
        if i % 3 == 0 {
            fs::rename(&file, sub.join(format!("{i}-renamed-{MARKER}"))).unwrap();
        }
    }
    symlink(format!("/target/{MARKER}"), sub.join(format!("link-{MARKER}"))).unwrap();
    let file = sub.join("attributed");
    fs::write(&file, [b'Z'; 100_000]).unwrap();
    shell(&sub, &format!("setfattr -n user.{MARKER} -v value-{MARKER} attributed"));
    // Small, synced: into the redo log.
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(format!("appended-{MARKER}").as_bytes()).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn nothing_shows_at_any_time() {
    let (host, key) = host_with_key();
    let mut dir = volume(&host, &key);
    must_not_show(&host, &key);
    for round in 0..4 {
        put_markers(&dir, round);
        if round == 2 {
            // Through a commit and a checkpoint.
            shell(&dir, "for i in {1..3000}; do echo $i > f$i; done; sync f1; rm -f f?*");
            host.umount("v");
            must_not_show(&host, &key);
            dir = host.mount("v", &["--key-file", &key]);
        } else {
            if round == 1 {
                // With copies of segments and of the database under way.
                host.ok(&["key", "reencrypt", "v", "--background", "--key-file", &key]);
            }
            // The next commit may be under way, or done, or not begun.
            std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 700));
            host.kill_server("v");
            must_not_show(&host, &key);
            check_closed(&host, &key);
            dir = host.mount("v", &["--key-file", &key]);
        }
        let sub = dir.join(format!("dir-{MARKER}-{round}"));
        assert_eq!(fs::read_dir(&sub).unwrap().count(), 42);
        assert_eq!(
            fs::read_link(sub.join(format!("link-{MARKER}"))).unwrap(),
            Path::new("/target").join(MARKER)
        );
        assert_eq!(fs::read(sub.join("attributed")).unwrap().len(), 100_000 + 9 + MARKER.len());
        must_not_show(&host, &key);
    }
    let server = host.server("v");
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{server}/{file}")).unwrap();
        assert!(!bytes.windows(8).any(|w| w == &fs::read(&key).unwrap()[..8]), "{file}");
        assert!(!String::from_utf8_lossy(&bytes).contains(&key), "{file}");
    }
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let number = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck")).map(number).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
    assert!(locked > 0 || limit.split_whitespace().nth(3) == Some("0"), "keys are not locked: {limit}");
    assert!(!host.ok(&["inspect", "v"]).contains("key\""));
    host.check("v");
    host.umount("v");
    check_closed(&host, &key);
    must_not_show(&host, &key);
    // Damage is logged, and its names are not.
    for segment in fs::read_dir(host.store("v").join("segments")).unwrap() {
        let file = OpenOptions::new().write(true).open(segment.unwrap().path()).unwrap();
        let len = file.metadata().unwrap().len();
        file.write_all_at(&vec![7; len.saturating_sub(8192) as usize], 8192).unwrap();
    }
    let dir = host.mount("v", &["--key-file", &key]);
    let sub = dir.join(format!("dir-{MARKER}-0"));
    assert_eq!(errno(fs::read(sub.join("attributed"))), libc::EIO);
    let output = run(&mut host.command(&["check", "v", "--read-data"]));
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&output.stdout).contains(MARKER), "check names the files");
    must_not_show(&host, &key);
}

/// A closed volume with a file of `blocks` blocks in one segment: the segment's path.
fn one_segment(host: &Host, key: &str, blocks: usize) -> PathBuf {
    let dir = volume(host, key);
    fs::write(dir.join("f"), pattern(blocks * 4096, 1)).unwrap();
    host.umount("v");
    let segments = shell(&host.store("v"), "ls -S segments | head -1");
    host.store("v").join("segments").join(segments.trim())
}

#[test]
fn blocks_that_were_meddled_with_are_errors_and_never_data() {
    use larder::store::{data_offset, seal_offset};
    let (host, key) = host_with_key();
    let path = one_segment(&host, &key, 40);
    let whole = fs::read(&path).unwrap();
    let copy = |bytes: &mut Vec<u8>, from: u64, to: u64, len: usize| {
        let part = bytes[from as usize..from as usize + len].to_vec();
        bytes[to as usize..to as usize + len].copy_from_slice(&part);
    };
    // Each with the block that cannot be read any more.
    type Meddle<'a> = (&'a str, u32, Box<dyn Fn(&mut Vec<u8>) + 'a>);
    let meddled: Vec<Meddle<'_>> = vec![
        ("a flipped bit", 5, Box::new(|b| b[data_offset(5) as usize + 9] ^= 1)),
        ("a flipped bit of a seal", 6, Box::new(|b| b[seal_offset(6) as usize + 3] ^= 1)),
        ("zeros", 7, Box::new(|b| b[data_offset(7) as usize..][..4096].fill(0))),
        (
            "another block with its seal",
            8,
            Box::new(|b| {
                copy(b, data_offset(20), data_offset(8), 4096);
                copy(b, seal_offset(20), seal_offset(8), 16);
            }),
        ),
        (
            "two blocks exchanged with their seals",
            9,
            Box::new(|b| {
                let (one, other) = (b[data_offset(9) as usize..][..4096].to_vec(), b.clone());
                copy(b, data_offset(10), data_offset(9), 4096);
                b[data_offset(10) as usize..][..4096].copy_from_slice(&one);
                b[seal_offset(9) as usize..][..16].copy_from_slice(&other[seal_offset(10) as usize..][..16]);
                b[seal_offset(10) as usize..][..16].copy_from_slice(&other[seal_offset(9) as usize..][..16]);
            }),
        ),
        (
            "another block in its place, with the seal that was there",
            11,
            Box::new(|b| copy(b, data_offset(20), data_offset(11), 4096)),
        ),
        ("seals of zeros", 12, Box::new(|b| b[seal_offset(12) as usize..][..16].fill(0))),
        ("the end cut off", 39, Box::new(|b| b.truncate(data_offset(39) as usize))),
    ];
    for (what, block, meddle) in &meddled {
        let mut bytes = whole.clone();
        meddle(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let dir = host.mount("v", &["--key-file", &key]);
        let file = File::open(dir.join("f")).unwrap();
        let mut buf = vec![0; 4096];
        for other in [0, 19, 30] {
            file.read_exact_at(&mut buf, other * 4096).unwrap();
            assert!(buf == pattern(40 * 4096, 1)[other as usize * 4096..][..4096], "{what}");
        }
        let mut buf = vec![0; 4096];
        assert_eq!(errno(file.read_at(&mut buf, u64::from(*block) * 4096)), libc::EIO, "{what}");
        drop(file);
        host.umount("v");
        // (An open of a store may cut or mend nothing of it.)
        let output = run(&mut host.command(&["check", "v", "--read-data", "--key-file", &key]));
        assert_eq!(output.status.code(), Some(9), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    }
    fs::write(&path, &whole).unwrap();
    check_closed(&host, &key);
}

#[test]
fn segments_that_were_emptied_or_put_back_are_errors_and_never_data() {
    let (host, key) = host_with_key();
    let path = one_segment(&host, &key, 300);
    let whole = fs::read(&path).unwrap();
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; whole.len()]),
        ("its header", whole[..4096].to_vec()),
        ("a part of its header", whole[..100].to_vec()),
        ("noise", pattern(whole.len(), 6)),
        ("itself, moved by a block", [&whole[..4096], &[0; 4096], &whole[4096..]].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        let dir = host.mount("v", &["--key-file", &key]);
        let file = File::open(dir.join("f")).unwrap();
        for block in [0, 100, 299] {
            let mut buf = [0; 4096];
            assert_eq!(errno(file.read_at(&mut buf, block * 4096)), libc::EIO, "{what}, block {block}");
        }
        drop(file);
        host.umount("v");
        let output = run(&mut host.command(&["check", "v", "--read-data", "--key-file", &key]));
        assert_eq!(output.status.code(), Some(9), "{what}");
    }
    fs::write(&path, &whole).unwrap();
    // What was there before it was written over: nothing refers to it any more.
    let dir = host.mount("v", &["--key-file", &key]);
    fs::write(dir.join("f"), pattern(300 * 4096, 2)).unwrap();
    host.umount("v");
    fs::write(&path, &whole).unwrap();
    let dir = host.mount("v", &["--key-file", &key]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(300 * 4096, 2));
    host.umount("v");
    check_closed(&host, &key);
}

#[test]
fn segments_that_were_exchanged_are_errors() {
    let (host, key) = host_with_key();
    let path = one_segment(&host, &key, 40);
    let old = fs::read(&path).unwrap();
    let dir = host.mount("v", &["--key-file", &key]);
    fs::write(dir.join("g"), pattern(40 * 4096, 2)).unwrap();
    host.umount("v");
    let segments = path.parent().unwrap();
    let newer = fs::read_dir(segments).unwrap().map(|e| e.unwrap().path()).find(|p| *p != path).unwrap();
    let new = fs::read(&newer).unwrap();
    // As it was, and with a header that fits its new name.
    for keep_header in [false, true] {
        let mut bytes = old.clone();
        if keep_header {
            bytes[..4096].copy_from_slice(&new[..4096]);
        }
        fs::write(&newer, &bytes).unwrap();
        let dir = host.mount("v", &["--key-file", &key]);
        assert_eq!(errno(fs::read(dir.join("g"))), libc::EIO);
        assert!(fs::read(dir.join("f")).unwrap() == pattern(40 * 4096, 1));
        host.umount("v");
    }
    fs::write(&newer, &new).unwrap();
    check_closed(&host, &key);
}

#[test]
fn metadata_that_was_meddled_with_is_damage() {
    let (host, key) = host_with_key();
    one_segment(&host, &key, 40);
    let path = host.store("v").join("meta.db");
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    let must_fail = |what: &str| {
        let output = run(&mut host.command(&["check", "v", "--key-file", &key]));
        assert_eq!(output.status.code(), Some(9), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    };
    for page in 0..pages {
        let mut bytes = whole.clone();
        bytes[page * 4096 + 100 + page] ^= 1;
        fs::write(&path, &bytes).unwrap();
        must_fail(&format!("a bit of page {page}"));
        let mut bytes = whole.clone();
        let other = (page + 1) % pages * 4096;
        bytes.copy_within(other..other + 4096, page * 4096);
        fs::write(&path, &bytes).unwrap();
        must_fail(&format!("another page in the place of page {page}"));
    }
    // A journal that would put pages back is none of ours.
    fs::write(&path, &whole).unwrap();
    let mut journal = vec![0u8; 512];
    journal[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    journal[11] = 1;
    journal[16..20].copy_from_slice(&(pages as u32).to_be_bytes());
    journal[20..24].copy_from_slice(&512u32.to_be_bytes());
    journal[24..28].copy_from_slice(&4096u32.to_be_bytes());
    journal.extend_from_slice(&1u32.to_be_bytes());
    journal.extend_from_slice(&[0; 4100]);
    fs::write(host.store("v").join("meta.db-journal"), &journal).unwrap();
    let dir = host.mount("v", &["--key-file", &key]);
    assert!(fs::read(dir.join("f")).unwrap() == pattern(40 * 4096, 1));
    host.umount("v");
    check_closed(&host, &key);
}

#[test]
fn a_plain_store_in_its_place_is_refused() {
    let (host, key) = host_with_key();
    host.ok(&["create", "plain"]);
    for args in [&["check", "plain", "--key-file", &key][..], &["inspect", "plain", "--key-file", &key]] {
        assert!(host.fails(13, args).contains("not encrypted"));
    }
    let dir = host.dir("mnt").to_str().unwrap().to_owned();
    assert!(host.fails(13, &["mount", "plain", &dir, "--key-file", &key]).contains("not encrypted"));
    host.fails(2, &["create", "v", "--key-file", &key]);
}

#[test]
fn mount_8_and_fstab_name_the_key() {
    let (host, key) = host_with_key();
    host.ok(&["create", "v", "--encrypt", "--key-file", &key]);
    let passphrase = secrets::file(&host, "passphrase", b"correct horse\n");
    host.ok(&["create", "w", "--encrypt", "--passphrase-file", &passphrase]);
    let output = host.with_helpers(&format!(
        "mount -t larder v $V -o key-file={key},noatime
         echo data > $V/f; umount $V
         echo \"v $V larder key-file={key},noauto 0 0\" > $V.fstab
         mount -T $V.fstab $V; cat $V/f; mount -o remount,ro $V; if touch $V/g; then exit 1; fi; umount $V
         echo \"w $V larder passphrase-file={passphrase},noauto 0 0\" > $V.fstab
         mount -T $V.fstab $V; echo phrase > $V/f; cat $V/f; umount $V
         mount -t larder v $V < /dev/null || echo status $?"
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("data")
            && text.contains("phrase")
            && text.contains("status 32")
            && text.contains("is encrypted"),
        "{text}"
    );
}

#[test]
fn a_foreground_server_and_a_second_look_need_the_secret_only_once() {
    let (host, key) = host_with_key();
    host.ok(&["create", "v", "--encrypt", "--key-file", &key]);
    let dir = host.make_mountpoint("v");
    let mut child = Command::new(larder())
        .arg("--root")
        .arg(host.root())
        .args(["mount", "v", dir.to_str().unwrap(), "--foreground", "--key-file", &key])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it is mounted", || host.ok(&["ls"]).contains("mnt"));
    fs::write(dir.join("f"), "x").unwrap();
    // What is open needs no secret.
    host.check("v");
    assert_eq!(host.json(&["inspect", "v"])["encrypted"], true);
    host.ok(&["df", "v"]);
    host.umount("v");
    wait_until("it ends", || !is_running(child.id() as i32));
    child.wait().unwrap();
    for args in [&["check", "v"][..], &["inspect", "v"], &["df", "v"]] {
        assert!(host.fails(13, args).contains("is encrypted"));
    }
    // And these list it all the same.
    assert!(host.ok(&["ls"]).contains("encrypted"));
    assert_eq!(host.json(&["ls", "--json"])[0]["encrypted"], true);
    host.ok(&["df"]);
    host.ok(&["df", "v", "--key-file", &key]);
    host.ok(&["rm", "v"]);
}
