//! Size and inode limits: exact, and harmless to hit.

use crate::support::{Host, errno, open_direct, pattern, shell};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

fn used(host: &Host) -> u64 {
    host.json(&["inspect", "v"])["used"].as_u64().unwrap()
}

#[test]
fn a_full_volume_refuses_no_later_than_fsync_or_close() {
    for options in ["writeback=on", "writeback=off"] {
        let host = Host::new();
        host.ok(&["create", "v", "--size", "20M"]);
        let dir = host.mount("v", &["-o", options]);
        fs::write(dir.join("kept"), pattern(1_000_000, 1)).unwrap();
        let mut file = File::create(dir.join("f")).unwrap();
        let mut failure = None;
        for i in 0..40 {
            if let Err(e) = file.write_all(&pattern(1 << 20, i)) {
                failure = Some(e);
                break;
            }
        }
        let error = match failure {
            Some(e) => e,
            None => file.sync_all().unwrap_err(),
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{options}");
        drop(file);
        assert!(used(&host) <= 20 << 20);
        // Through close(2), as cp(1) sees it.
        let copied = shell(&dir, "dd if=/dev/zero of=g bs=1M count=30 2>&1 || true; rm -f g");
        assert!(copied.contains("No space left"), "{options}: {copied}");
        fs::remove_file(dir.join("f")).unwrap();
        crate::support::wait_until("the space comes back", || used(&host) < 2_000_000);
        fs::write(dir.join("again"), pattern(15 << 20, 2)).unwrap();
        let dir = host.remount("v");
        assert!(fs::read(dir.join("kept")).unwrap() == pattern(1_000_000, 1));
        assert!(fs::read(dir.join("again")).unwrap() == pattern(15 << 20, 2));
        host.umount("v");
        host.check("v");
    }
}

/// Writes until it is refused, but `most` MiB; returns the MiB that were taken, and the errno.
fn fill(mut file: &File, most: usize) -> (usize, i32) {
    for i in 0..most {
        let bytes = vec![1 + (i % 250) as u8; 1 << 20];
        if let Err(e) = file.write_all(&bytes) {
            return (i, e.raw_os_error().unwrap());
        }
    }
    (most, 0)
}

/// The kernel takes what programs write before the server can say that there is no room. What is lost then is said to whoever
/// goes on, and the file ends where its data ends.
#[test]
fn a_writer_that_goes_on_is_told_that_its_file_is_full() {
    let transports = crate::uring::transports();
    for transport in transports {
        let host = Host::new();
        host.ok(&["create", "v", "--size", "20M"]);
        let dir = host.mount("v", &["-o", &format!("transport={transport}")]);
        let file = File::create(dir.join("f")).unwrap();
        fill(&file, 40);
        assert_eq!(errno(file.sync_all()), libc::ENOSPC);
        // The kernel has said so, and would not say it again.
        for _ in 0..3 {
            assert_eq!(errno(file.sync_all()), libc::ENOSPC, "{transport}");
        }
        let refused = || (&file).write_all(b"more").err().and_then(|e| e.raw_os_error());
        crate::support::wait_until("a write is refused", || refused() == Some(libc::ENOSPC));
        assert_eq!(refused(), Some(libc::ENOSPC), "{transport}");
        // Others are not meant.
        fs::write(dir.join("empty"), "").unwrap();
        File::open(dir.join("empty")).unwrap().sync_all().unwrap();
        drop(file);
        ends_where_its_data_ends(&host, &dir);
        host.umount("v");
        host.check("v");
    }
}

/// A file that has its size before it has its data does not grow with them.
#[test]
fn in_a_file_that_has_its_size_already_nothing_is_kept_behind_what_is_lost() {
    for options in ["writeback=on", "writeback=off"] {
        let host = Host::new();
        host.ok(&["create", "v", "--size", "20M"]);
        let dir = host.mount("v", &["-o", options]);
        for round in 0..4 {
            let path = dir.join(format!("f{round}"));
            let file = File::create(&path).unwrap();
            file.set_len(40 << 20).unwrap();
            let (_, error) = fill(&file, 40);
            let error = if error == 0 { errno(file.sync_all()) } else { error };
            assert_eq!(error, libc::ENOSPC);
            drop(file);
            crate::support::wait_until("the data end where they end", || {
                let found = fs::read(&path).unwrap();
                let data = found.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                found.len() == 40 << 20 && !found[..data].contains(&0)
            });
            fs::remove_file(&path).unwrap();
        }
        host.umount("v");
        host.check("v");
    }
}

/// Whether `f`, which nobody has open, is what was written first, and nothing else.
#[track_caller]
fn ends_where_its_data_ends(host: &Host, dir: &std::path::Path) {
    let is_right = || {
        let found = fs::read(dir.join("f")).unwrap();
        let size = fs::metadata(dir.join("f")).unwrap().len();
        let whole = found.iter().enumerate().all(|(i, byte)| *byte == 1 + ((i >> 20) % 250) as u8);
        whole && found.len() as u64 == size && size <= 20 << 20
    };
    crate::support::wait_until("the file ends where its data ends", is_right);
    assert!(used(host) <= 20 << 20);
}

#[test]
fn a_full_file_can_be_written_again_once_it_is_cut_or_closed() {
    let host = Host::new();
    host.ok(&["create", "v", "--size", "20M"]);
    let dir = host.mount("v", &[]);
    let file = File::create(dir.join("f")).unwrap();
    fill(&file, 40);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    // There is room again, but not for what was lost: what came behind it is not kept either.
    host.ok(&["resize", "v", "--size", "100M"]);
    let _ = (&file).write_all(b"behind what is lost");
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    let refused = || errno((&file).write_all(b"behind what is lost")) == libc::ENOSPC;
    crate::support::wait_until("a write is refused", refused);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[2; 1 << 20], 1 << 20).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(dir.join("f")).unwrap().len(), 2 << 20);
    drop(file);
    // Nor does it take more than closing it, by everybody who has it open.
    host.ok(&["resize", "v", "--size", "20M"]);
    let file = File::create(dir.join("f")).unwrap();
    fill(&file, 40);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    drop(file);
    ends_where_its_data_ends(&host, &dir);
    host.ok(&["resize", "v", "--size", "100M"]);
    let file = fs::OpenOptions::new().append(true).open(dir.join("f")).unwrap();
    let size = file.metadata().unwrap().len();
    (&file).write_all(b"more").unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), size + 4);
    drop(file);
    let dir = host.remount("v");
    assert_eq!(fs::metadata(dir.join("f")).unwrap().len(), size + 4);
    host.umount("v");
    host.check("v");
}

/// Its writer was told that it is there.
#[test]
fn what_was_written_past_the_cache_behind_what_was_lost_stays() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "20M"]);
    let (path, cached) = (dir.join("f"), File::create(dir.join("f")).unwrap());
    cached.write_all_at(&pattern(10 << 20, 1), 0).unwrap();
    let direct = open_direct(&path);
    let mut memory = crate::aio::Aligned::new(8192);
    let buf = memory.bytes();
    buf.copy_from_slice(&pattern(8192, 2));
    direct.write_all_at(&buf[..4096], 40 << 20).unwrap();
    cached.write_all_at(&pattern(15 << 20, 3), 10 << 20).unwrap();
    assert_eq!(errno(cached.sync_all()), libc::ENOSPC);
    // And what comes there later, where there is room for it.
    host.ok(&["resize", "v", "--size", "100M"]);
    crate::support::wait_until("it is taken", || {
        direct.write_all_at(&buf[4096..], (40 << 20) + 4096).is_ok()
    });
    drop((cached, direct));
    let dir = host.remount("v");
    let found = fs::read(dir.join("f")).unwrap();
    assert_eq!(found.len(), (40 << 20) + 8192);
    assert!(found[..10 << 20] == pattern(10 << 20, 1) && found[40 << 20..] == pattern(8192, 2));
    host.umount("v");
    host.check("v");
}

/// What lies behind what is missing, and was there before, stays, and can be changed.
#[test]
fn old_data_behind_what_was_lost_stays() {
    let host = Host::new();
    host.ok(&["create", "v", "--size", "20M"]);
    let dir = host.mount("v", &[]);
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(dir.join("f"))
        .unwrap();
    file.write_all_at(&[1; 1 << 20], 100 << 20).unwrap();
    file.sync_all().unwrap();
    fs::write(dir.join("other"), pattern(18 << 20, 1)).unwrap();
    file.write_all_at(&pattern(5 << 20, 2), 0).unwrap();
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    fs::remove_file(dir.join("other")).unwrap();
    crate::support::wait_until("there is room", || used(&host) < 8 << 20);
    crate::support::wait_until("writes are taken", || file.write_all_at(&[3; 4096], 100 << 20).is_ok());
    // What was lost is written once more: nothing is missing then.
    file.write_all_at(&pattern(5 << 20, 2), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let dir = host.remount("v");
    let found = fs::read(dir.join("f")).unwrap();
    assert_eq!(found.len(), 101 << 20);
    assert!(found[..5 << 20] == pattern(5 << 20, 2));
    assert!(found[100 << 20..][..4096] == [3; 4096] && found[(100 << 20) + 4096..].iter().all(|b| *b == 1));
    host.umount("v");
    host.check("v");
}

/// The kernel takes it, and says so to each that has the file open; it is not what the file ends with once nobody has.
#[test]
fn what_was_written_beyond_the_largest_file_is_all_that_is_lost() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let path = dir.join("f");
    fs::write(&path, pattern(4096, 1)).unwrap();
    fs::write(dir.join("other"), "good").unwrap();
    let open = || fs::OpenOptions::new().write(true).open(&path).unwrap();
    let [one, two] = [open(), open()];
    one.write_at(b"too far", 16 << 40).unwrap();
    assert_eq!(errno(one.sync_all()), libc::EFBIG);
    assert_eq!(errno(two.sync_all()), libc::EFBIG);
    // For who closes a file, the kernel keeps only that an error was no ENOSPC.
    let closed = File::create(dir.join("closed")).unwrap();
    closed.write_at(b"too far", 16 << 40).unwrap();
    assert_eq!(errno(nix::unistd::close(closed).map_err(Into::into)), libc::EIO);
    File::open(dir.join("other")).unwrap().sync_all().unwrap();
    // Writers are told, too, and can go on. (The kernel writes back whole pages of a file that it takes for so long.)
    crate::support::wait_until("a write is taken", || one.write_at(&pattern(4096, 2), 4096).is_ok());
    drop((one, two));
    crate::support::wait_until("the file ends where its data ends", || {
        fs::metadata(&path).unwrap().len() == 8192
    });
    let file = open();
    file.write_at(b"again", 8192).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let dir = host.remount("v");
    let expected = [pattern(4096, 1), pattern(4096, 2), b"again".to_vec()].concat();
    assert!(fs::read(dir.join("f")).unwrap() == expected);
    assert_eq!(fs::read_to_string(dir.join("other")).unwrap(), "good");
    host.umount("v");
    host.check("v");
}

/// Each cut asks whether the new last block fits, beside a hole that reaches to 16 TiB. That was looked at chunk by chunk: a
/// minute for each. The shell would be killed long before it came to the end.
#[test]
fn files_of_a_full_volume_can_be_cut_many_times() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1M"]);
    let file = open_direct(&dir.join("f"));
    let buf = vec![7u8; 257 * 4096];
    let shift = buf.as_ptr().align_offset(4096);
    file.write_all_at(&buf[shift..shift + 256 * 4096], 0).unwrap();
    drop(file);
    assert_eq!(used(&host), 1 << 20);
    let size = shell(&dir, "for i in {1..40}; do truncate -s $((1048576 - i * 100)) f; done; stat -c %s f");
    assert_eq!(size, "1044576\n");
    assert_eq!(used(&host), 1 << 20);
    host.umount("v");
    host.check("v");
}

#[test]
fn the_last_block_can_be_used_and_not_one_more() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1M"]);
    let file = open_direct(&dir.join("f"));
    let mut buf = vec![0u8; 600 * 4096];
    let shift = buf.as_ptr().align_offset(4096);
    let pages = &mut buf[shift..shift + 500 * 4096];
    file.write_all_at(&pages[..200 * 4096], 0).unwrap();
    assert_eq!(errno(file.write_at(&pages[..57 * 4096], 200 * 4096)), libc::ENOSPC);
    assert_eq!(used(&host), 200 * 4096, "what does not fit leaves nothing behind");
    file.write_all_at(&pages[..56 * 4096], 200 * 4096).unwrap();
    assert_eq!(used(&host), 1 << 20);
    assert_eq!(errno(file.write_at(&pages[..4096], 1 << 20)), libc::ENOSPC);
    // What is there can be overwritten, although every write goes to a new place.
    for i in 0..50 {
        pages[..4096].fill(i);
        file.write_all_at(&pages[..4096], 4096 * u64::from(i)).unwrap();
    }
    assert_eq!(errno(File::create(dir.join("g"))), 0, "an empty file takes no blocks");
    let full = shell(&dir, "dd if=/dev/zero of=g bs=1 count=1 2>&1 || true");
    assert!(full.contains("No space left"), "{full}");
    file.set_len(4096 * 255).unwrap();
    // (An fsync here would be told of the failure above once more: the kernel keeps it for the next who asks.)
    shell(&dir, "dd if=/dev/zero of=g bs=1 count=1");
    assert_eq!(used(&host), 1 << 20);
    drop(file);
    host.umount("v");
    host.check("v");
}

#[test]
fn a_write_that_does_not_fit_is_short_as_on_ext4() {
    let host = Host::new();
    host.ok(&["create", "v", "--size", "1M"]);
    let dir = host.mount("v", &["-o", "writeback=off"]);
    let file = File::create(dir.join("f")).unwrap();
    assert_eq!(file.write_at(&pattern(1_000_000, 1), 0).unwrap(), 1_000_000);
    assert_eq!(file.write_at(&pattern(1_000_000, 2), 1_000_000).unwrap(), 48_576);
    assert_eq!(errno(file.write_at(b"x", 1 << 20)), libc::ENOSPC);
}

/// What a limit allows and the host does not have is no free space.
#[test]
fn a_volume_shows_no_more_free_space_than_the_host_has() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1P"]);
    fs::write(dir.join("f"), pattern(1 << 20, 1)).unwrap();
    File::open(dir.join("f")).unwrap().sync_all().unwrap();
    let most = {
        let disk = nix::sys::statvfs::statvfs(host.root()).unwrap();
        disk.blocks() * disk.fragment_size()
    };
    let shown = nix::sys::statvfs::statvfs(&dir).unwrap();
    assert!(shown.blocks_available() * 4096 <= most, "df shows what is not there");
    assert_eq!((shown.blocks() * 4096, (shown.blocks() - shown.blocks_free()) * 4096), (1 << 50, 1 << 20));
    let df = &host.json(&["df", "v", "--json"])[0];
    assert!(df["available"].as_u64().unwrap() <= most, "{df}");
    assert_eq!((df["size"].as_u64(), df["used"].as_u64()), (Some(1 << 50), Some(1 << 20)));
}

#[test]
fn the_inode_limit_is_exact() {
    let host = Host::new();
    let dir = host.volume("v", &["--inodes", "50"]);
    for i in 0..49 {
        fs::write(dir.join(i.to_string()), "x").unwrap();
    }
    assert_eq!(errno(File::create(dir.join("one"))), libc::ENOSPC);
    assert_eq!(errno(fs::create_dir(dir.join("one"))), libc::ENOSPC);
    assert_eq!(errno(std::os::unix::fs::symlink("a", dir.join("one"))), libc::ENOSPC);
    fs::hard_link(dir.join("0"), dir.join("link")).unwrap();
    fs::remove_file(dir.join("7")).unwrap();
    crate::support::wait_until("the inode comes back", || host.json(&["inspect", "v"])["inodes_used"] == 49);
    fs::create_dir(dir.join("one")).unwrap();
    assert_eq!(errno(File::create(dir.join("two"))), libc::ENOSPC);
    host.umount("v");
    host.check("v");
}

#[test]
fn sparse_files_cost_what_they_hold() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "10M"]);
    let file = File::create(dir.join("f")).unwrap();
    file.set_len(1 << 40).unwrap();
    for i in 0..100u64 {
        file.write_all_at(b"x", i << 30).unwrap();
    }
    file.sync_all().unwrap();
    assert_eq!(used(&host), 100 * 4096);
    drop(file);
    host.umount("v");
    host.check("v");
}

fn number(host: &Host, field: &str) -> u64 {
    let info = host.json(&["inspect", "v"]);
    info[field].as_u64().unwrap_or_else(|| panic!("{field}: {info:#}"))
}

/// Bytes of the host's disk that the store takes.
fn host_bytes(host: &Host) -> u64 {
    shell(&host.store("v"), "du -s -B1 . | cut -f1").trim().parse().unwrap()
}

/// What is stored beside the contents of files has a limit, too: else a volume of some MiB fills its host.
#[test]
fn names_attributes_and_targets_are_limited_and_can_be_deleted_at_the_limit() {
    let ways = [
        ("xattrs", "make(i); os.setxattr(i, 'user.a', os.urandom(60000))"),
        ("small xattrs", "make(i); [os.setxattr(i, 'user.%d' % n, os.urandom(900)) for n in range(60)]"),
        ("targets", "os.symlink('/'.join(['x' * 200] * 20), i)"),
        ("links", "make('a'); os.link('a', i.zfill(250))"),
        ("names", "make(i.zfill(250))"),
        ("renames", "make(i); os.rename(i, i.zfill(250))"),
    ];
    for (what, step) in ways {
        let host = Host::new();
        let dir = host.volume("v", &["--size", "4M", "--inodes", "none"]);
        host.ok(&["snapshot", "create", "v@empty"]);
        let limit = number(&host, "metadata");
        assert_eq!(limit, 1 << 20, "{what}");
        let script = host.dir("scripts").join("fill.py");
        let text = format!(
            "import os
make = lambda name: os.close(os.open(name, os.O_CREAT))
for i in map(str, range(1000000)):
    try: {step}
    except OSError as e:
        assert e.errno == 28, e
        break
else: assert False
"
        );
        fs::write(&script, text).unwrap();
        shell(&dir, &format!("python3 {}", script.display()));
        let used = number(&host, "metadata_used");
        assert!(used <= limit && limit - used < 80_000, "{what}: {used} of {limit}");
        let df = nix::sys::statvfs::statvfs(&dir).unwrap();
        assert!(df.files_free() <= (limit - used) / 320, "{what}: df -i shows {} free", df.files_free());
        shell(&dir, "sync .");
        let taken = host_bytes(&host);
        assert!(taken < 40 << 20, "{what}: {taken} bytes of the host");
        // What hides rows that a snapshot has needs no room of its own.
        host.ok(&["snapshot", "create", "v@full"]);
        assert_eq!(
            errno(fs::create_dir(dir.join("n".repeat(250)))),
            if limit - used < 577 { libc::ENOSPC } else { 0 }
        );
        shell(&dir, "find . -mindepth 1 -delete");
        crate::support::wait_until("everything is gone", || number(&host, "metadata_used") == 256);
        fs::write(dir.join("again"), "x").unwrap();
        host.umount("v");
        host.check("v");
        host.ok(&["rollback", "v@full"]);
        assert_eq!(number(&host, "metadata_used"), used, "{what}");
        host.check("v");
    }
}

#[test]
fn the_limit_of_metadata_is_exact() {
    let host = Host::new();
    // The root directory, 3 files with names of 1, and not one byte more.
    let dir = host.volume("v", &["--metadata", &(4096 + 256 + 3 * 321).to_string()]);
    let target = "t".repeat(768);
    for name in ["s1", "s2", "s3"] {
        std::os::unix::fs::symlink(&target, dir.join(name)).unwrap();
    }
    let left = 4096 + 256 + 3 * 321 - 256 - 3 * (256 + 768 + 66);
    assert_eq!(number(&host, "metadata_used"), 256 + 3 * (256 + 768 + 66));
    let name = |len: usize| dir.join("n".repeat(len));
    let files = left / (256 + 64 + 100);
    for i in 0..files {
        File::create(dir.join(format!("{i:0>100}"))).unwrap();
    }
    let left = left - files * (256 + 64 + 100);
    assert_eq!(errno(File::create(name(250))), libc::ENOSPC);
    assert!(left > 66 && left < 64 + 255, "{left}");
    assert_eq!(errno(fs::hard_link(dir.join("s1"), name(left - 64 + 1))), libc::ENOSPC);
    fs::hard_link(dir.join("s1"), name(left - 64)).unwrap();
    assert_eq!(number(&host, "metadata_used"), number(&host, "metadata"));
    assert_eq!(nix::sys::statvfs::statvfs(&dir).unwrap().files_free(), 0);
    // Contents are limited by the size; and what takes no more than before goes on.
    fs::write(dir.join(format!("{:0>100}", 0)), pattern(1 << 20, 1)).unwrap();
    fs::rename(dir.join("s2"), dir.join("s9")).unwrap();
    assert_eq!(errno(fs::rename(dir.join("s9"), dir.join("s10"))), libc::ENOSPC);
    fs::rename(dir.join("s9"), dir.join("s3")).unwrap();
    fs::rename(dir.join("s3"), dir.join("s10")).unwrap();
    let refused = host.fails(2, &["resize", "v", "--metadata", "4096"]);
    assert!(refused.contains("metadata"), "{refused}");
    host.ok(&["resize", "v", "--metadata", "none"]);
    File::create(dir.join("more")).unwrap();
    let df = host.ok(&["df", "v"]);
    assert!(df.contains("MUSED"), "{df}");
    host.umount("v");
    host.check("v");
}

/// What was deleted is of no use to the host while the database keeps it.
#[test]
fn the_database_shrinks_again() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &["--size", "10M", "--inodes", "none", "--metadata", "none"]);
        let database = || fs::metadata(host.store("v").join("meta.db")).unwrap().len();
        fs::write(dir.join("kept"), pattern(1 << 20, 1)).unwrap();
        shell(
            &dir,
            "python3 -c \"import os
for i in range(500):
    os.close(os.open(str(i), os.O_CREAT)); os.setxattr(str(i), 'user.a', os.urandom(60000))\"; sync .",
        );
        let dir = host.remount("v");
        assert!(database() > 25 << 20, "{}", database());
        fs::write(dir.join("also kept"), pattern(1 << 20, 2)).unwrap();
        shell(&dir, "find . -type f ! -name '*kept' -delete; sync .");
        crate::support::wait_until("the database is small", || database() < 6 << 20);
        assert_eq!(fs::read(dir.join("also kept")).unwrap(), pattern(1 << 20, 2));
        host.umount("v");
        host.check("v");
    }
}
