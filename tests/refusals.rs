//! What cannot be done as a whole: it is refused before anything is changed, or nobody is left with another idea of what is there.

use crate::disk::{Access, Disk, Fault};
use crate::model::harness::{check_disk, new_disk};
use crate::support::{Host, pattern, run, same_as_native, shell};
use larder::fs::{
    AllocateMode, Caller, Fs, FsError, FsOptions, Ino, InodeFlags, Kind, NewNode, ROOT_INO, SetAttr, Wait,
    WriteMode,
};
use larder::meta::Limits;
use larder::open_store::{OpenStore, StoreOptions};
use parking_lot::Mutex;
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// Far more than one step is about.
const CHUNKS: u64 = 3000;

/// A file with a block in each chunk, and two in the first.
struct Scattered {
    disk: Disk,
    store: Arc<OpenStore>,
    fs: Fs,
    ino: Ino,
}

fn make(fs: &Fs, name: &[u8]) -> Ino {
    let node = NewNode { kind: Kind::Regular, permissions: 0o644, umask: 0, rdev: 0, target: None };
    fs.make(ROOT_INO, name, &node, Caller::ROOT).unwrap().ino
}

/// An empty file on a volume of so many blocks.
fn limited(blocks: u64) -> (Disk, Arc<OpenStore>, Fs, Ino) {
    let disk = new_disk(Some(blocks), None);
    let store = OpenStore::open(Arc::new(disk.clone()), None, StoreOptions::default()).unwrap();
    let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
    let ino = make(&fs, b"f");
    (disk, store, fs, ino)
}

impl Scattered {
    fn new() -> Self {
        let disk = new_disk(None, None);
        let options = StoreOptions { cache_bytes: 0, ..StoreOptions::default() };
        let store = OpenStore::open(Arc::new(disk.clone()), None, options).unwrap();
        let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
        let ino = make(&fs, b"f");
        for chunk in 0..CHUNKS {
            fs.write(ino, chunk * MIB, &pattern(8192, chunk), WriteMode::default()).unwrap();
        }
        store.commit_now().unwrap();
        Self { disk, store, fs, ino }
    }

    fn make(&self, name: &[u8]) -> Ino {
        make(&self.fs, name)
    }

    fn set_size(&self, size: u64) -> Result<(), FsError> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(self.ino, &set, Caller::ROOT).map(drop)
    }

    /// Begins to cut the file to 5000 bytes, which is refused half way: the file is immutable then.
    #[track_caller]
    fn fail_truncation(&self) {
        let Self { fs, ino, .. } = self;
        let set = SetAttr { size: Some(5000), ..SetAttr::default() };
        let mut resizing = Fs::resizing(*ino, &set, Caller::ROOT).unwrap();
        assert_eq!(fs.resize_some(&mut resizing), Ok(None));
        fs.set_flags(*ino, InodeFlags::IMMUTABLE).unwrap();
        assert_eq!(fs.resize_some(&mut resizing), Err(FsError::NotPermitted));
    }

    /// All kinds of changes in several steps that are about a part of the second block of the file.
    fn change_all(&self, expected: FsError) {
        let end = CHUNKS * MIB;
        for (offset, len, mode) in [
            (5000, end, AllocateMode::PunchHole),
            (5000, end - 100 * MIB, AllocateMode::PunchHole),
            (5000, end, AllocateMode::ZeroRange { keep_size: true }),
        ] {
            let refused = self.fs.allocate(self.ino, offset, len, mode, Caller::ROOT);
            assert_eq!(refused, Err(expected), "{mode:?}");
        }
        assert_eq!(self.set_size(5000), Err(expected));
    }

    #[track_caller]
    fn assert_whole(&self) {
        let attr = self.fs.getattr(self.ino).unwrap();
        assert_eq!((attr.size, attr.blocks), ((CHUNKS - 1) * MIB + 8192, CHUNKS * 16));
        for chunk in (0..CHUNKS).rev().step_by(7).chain([0]) {
            let mut bytes = vec![0; 8192];
            self.fs.read(self.ino, chunk * MIB, &mut bytes, Wait::Yes).unwrap();
            assert!(bytes == pattern(8192, chunk), "chunk {chunk} is not as it was");
        }
        assert_eq!(self.fs.sync_error(self.ino), None);
    }

    fn close(self) {
        self.fs.forget_all();
        self.store.close().unwrap();
        check_disk(&self.disk);
    }
}

fn is_segment(name: &str) -> bool {
    name.starts_with("segments/")
}

#[test]
fn a_change_of_many_steps_that_needs_a_damaged_block_changes_nothing() {
    let file = Scattered::new();
    // As many as are tried.
    for _ in 0..4 {
        file.disk.inject(Fault::once(Access::Read, is_segment, libc::EIO, 0));
    }
    file.change_all(FsError::Io);
    file.assert_whole();
    file.close();
}

#[test]
fn a_change_of_many_steps_that_needs_a_block_of_a_full_disk_changes_nothing() {
    let file = Scattered::new();
    file.disk.fill(true);
    file.change_all(FsError::NoSpace);
    file.assert_whole();
    file.disk.fill(false);
    file.set_size(5000).unwrap();
    assert_eq!(file.fs.getattr(file.ino).unwrap().blocks, 16);
    let mut bytes = vec![1; 8192];
    assert_eq!(file.fs.read(file.ino, 0, &mut bytes, Wait::Yes), Ok(5000));
    file.set_size(8192).unwrap();
    assert_eq!(file.fs.read(file.ino, 0, &mut bytes, Wait::Yes), Ok(8192));
    let mut expected = pattern(8192, 0);
    expected[5000..].fill(0);
    assert!(bytes == expected);
    file.close();
}

/// The kernel takes a truncation that fails for one that was not made, and goes on showing the size that it knows.
#[test]
fn what_a_truncation_that_failed_half_way_has_cut_off_is_known_to_be_missing() {
    let file = Scattered::new();
    let Scattered { fs, ino, .. } = &file;
    file.fail_truncation();
    assert!(fs.getattr(*ino).unwrap().size < CHUNKS * MIB / 2 * 2 - MIB);
    assert_eq!(fs.lossy_files(), [*ino]);
    assert_eq!(fs.sync_error(*ino), Some(FsError::NotPermitted));
    fs.set_flags(*ino, InodeFlags::default()).unwrap();
    file.set_size(5000).unwrap();
    assert_eq!(fs.sync_error(*ino), None);
    file.close();
}

/// A write-back of pages that programs wrote long ago.
const WRITE_BACK: WriteMode =
    WriteMode { killer: None, may_be_short: false, keeps_times: true, is_write_back: true };

/// Nobody has synced the file yet; perhaps somebody has closed it, and been told that all is well.
#[test]
fn a_file_of_which_a_part_cannot_be_written_again_keeps_all_that_it_has() {
    let file = Scattered::new();
    let ino = file.make(b"grown");
    for mib in 0..8 {
        file.fs.write(ino, mib * MIB, &pattern(MIB as usize, mib), WRITE_BACK).unwrap();
    }
    file.disk.fill(true);
    // What is there cannot be replaced, nor a part of it together with more behind the end.
    for (offset, len) in [(3 * MIB, 4096), (8 * MIB - 4096, 8192)] {
        assert_eq!(file.fs.write(ino, offset, &vec![7; len], WRITE_BACK), Err(FsError::NoSpace));
        assert_eq!(file.fs.sync_error(ino), Some(FsError::NoSpace));
    }
    file.disk.fill(false);
    assert_eq!(file.fs.getattr(ino).unwrap().size, 8 * MIB);
    let mut bytes = vec![0; MIB as usize];
    for mib in 0..8 {
        file.fs.read(ino, mib * MIB, &mut bytes, Wait::Yes).unwrap();
        assert!(bytes == pattern(MIB as usize, mib), "MiB {mib} is not as it was");
    }
    file.close();
}

/// What the kernel sends in order arrives in any.
#[test]
fn a_file_ends_where_its_data_ends_in_whatever_order_its_parts_are_lost() {
    let (disk, store, fs, ino) = limited(256);
    let write = |offset, len| fs.write(ino, offset, &vec![1; len], WRITE_BACK);
    write(2 * MIB, MIB as usize).unwrap();
    assert_eq!(write(MIB, MIB as usize), Err(FsError::NoSpace));
    assert_eq!(fs.getattr(ino).unwrap().size, MIB);
    // The last that is sent comes first; the first, last.
    assert_eq!(write(0, MIB as usize + 4096), Err(FsError::NoSpace));
    assert_eq!(fs.getattr(ino).unwrap().size, 0);
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
}

/// A server that is killed in the middle of it leaves a shorter file, and the next one has to know what it does not have any more.
#[test]
fn what_is_cut_off_behind_a_loss_is_known_before_it_is_gone() {
    let (disk, store, fs, ino) = limited(512);
    let fs = Arc::new(fs);
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let (keeps, looks) = (Arc::clone(&told), Arc::downgrade(&fs));
    fs.keep_losses(Box::new(move |lost| {
        let size = looks.upgrade().unwrap().getattr(lost.ino).unwrap().size;
        keeps.lock().push((size, lost.missing));
    }));
    let write = |mib: u64| fs.write(ino, mib * MIB, &pattern(MIB as usize, mib), WRITE_BACK).map(drop);
    assert_eq!([0, 2, 1].map(write), [Ok(()), Ok(()), Err(FsError::NoSpace)]);
    assert_eq!(fs.getattr(ino).unwrap().size, MIB);
    assert_eq!(told.lock().last(), Some(&(3 * MIB, vec![(MIB, 3 * MIB)])));
    fs.forget_all();
    drop(fs);
    store.close().unwrap();
    check_disk(&disk);
}

/// What lay behind a loss is given back; that there is room because of that does not mean that somebody goes on behind it.
#[test]
fn what_was_lost_can_be_written_again_though_more_of_it_came_when_a_part_was_given_back() {
    let (disk, store, fs, ino) = limited(512);
    let write = |mib: u64| fs.write(ino, mib * MIB, &pattern(MIB as usize, mib), WRITE_BACK).map(drop);
    let results = [0, 2, 1, 3].map(write);
    assert_eq!(results, [Ok(()), Ok(()), Err(FsError::NoSpace), Err(FsError::NoSpace)]);
    assert_eq!(fs.refuses_writers(ino), Some(FsError::NoSpace));
    store.alter(|meta| meta.resize(1, Limits { blocks: Some(5000), ..Limits::default() })).unwrap();
    assert_eq!(fs.refuses_writers(ino), None);
    assert_eq!([3, 1, 2].map(write), [Ok(()); 3]);
    assert_eq!(fs.sync_error(ino), None);
    fs.forget_all();
    store.close().unwrap();
    check_disk(&disk);
}

/// What comes behind what a truncation could not finish is missing, too, until it is written again.
#[test]
fn what_is_refused_behind_a_truncation_that_failed_is_known_to_be_missing() {
    let file = Scattered::new();
    let Scattered { fs, ino, .. } = &file;
    file.fail_truncation();
    fs.set_flags(*ino, InodeFlags::default()).unwrap();
    let (now, before) = (fs.getattr(*ino).unwrap().size, CHUNKS * MIB - MIB + 8192);
    let behind = before.next_multiple_of(MIB) + MIB;
    assert_eq!(fs.write(*ino, behind, &[1; 4096], WRITE_BACK), Err(FsError::NotPermitted));
    // All that the truncation cut off is written again.
    for offset in (now..before).step_by(MIB as usize) {
        let len = (before - offset).min(MIB) as usize;
        fs.write(*ino, offset, &pattern(len, offset), WRITE_BACK).unwrap();
    }
    assert_eq!(fs.sync_error(*ino), Some(FsError::NotPermitted));
    fs.write(*ino, behind, &[1; 4096], WRITE_BACK).unwrap();
    assert_eq!(fs.sync_error(*ino), None);
    file.close();
}

/// Through the kernel's cache, past it, and asynchronously: with what happens to a process that does not ignore the signal.
#[test]
fn nobody_writes_beyond_the_limit_of_its_process() {
    const LIMIT_KIB: u32 = 8;
    let writers = [
        "dd if=/dev/zero of=f bs=4096 count=4 conv=notrunc status=none",
        "dd if=/dev/zero of=f bs=4096 count=4 conv=notrunc oflag=direct status=none",
        "dd if=/dev/zero of=f bs=4096 count=1 seek=100 conv=notrunc status=none",
        "dd if=/dev/zero of=f bs=6000 count=2 conv=notrunc,fsync status=none",
        "dd if=/dev/zero of=f bs=4096 count=4 oflag=append conv=notrunc status=none",
        "truncate -s 8193 f",
        "fallocate -l 8193 f",
        "truncate -s 8192 f",
    ];
    same_as_native(|dir| {
        let result = |writer: &str| {
            let with = |trap: &str| {
                let limited = format!("{trap} ulimit -c 0; ulimit -f {LIMIT_KIB}; {writer}");
                let script = format!(
                    "rm -f f; : > f; bash -c '{limited}' 2>&1 && code=0 || code=$?; echo \"$code $(stat -c %s f)\""
                );
                shell(dir, &script)
            };
            [with("trap \"\" XFSZ;"), with("exec 2> /dev/null;")]
        };
        writers.map(result)
    });
}

/// A sign made a change of it where one was meant, and a limit of a few files.
#[test]
fn limits_and_options_that_nobody_means_are_refused() {
    let host = Host::plain();
    host.ok(&["create", "q", "--size", "2M"]);
    host.fails(2, &["set", "q", "inodes=+5"]);
    let refused = |args: &[&str]| {
        let output = run(&mut host.command(args));
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    refused(&["create", "r", "--inodes", "+5"]);
    assert!(host.fails(2, &["resize", "q", "--size", "-1900K"]).contains("the smallest is 1 MiB"));
    assert!(
        host.fails(2, &["resize", "q", "--size", "-5G"])
            .contains("the size limit is 2M: it cannot be lowered by 5G")
    );
    host.ok(&["resize", "q", "--size", "-1M"]);
    assert_eq!(host.ok(&["get", "q", "size"]), "1M\n");
    assert!(host.fails(2, &["set", "q", "--unset", "noatme"]).contains("did you mean noatime?"));
    host.fails(2, &["set", "q", "--unset", "nonsense"]);
    host.fails(2, &["set", "q", "sticky="]);
    assert!(host.fails(2, &["set", "q", "cache-size=1"]).contains("too little for a cache"));
    assert!(refused(&["mount", "q", "/mnt", "--cache-size", "1"]).contains("too little for a cache"));
    assert!(
        refused(&["ls", "--format", "json", "--json"])
            .contains("--format and --json cannot be used together")
    );
    // The others are shown all the same.
    for command in [&["ls", "nosuch", "q"][..], &["df", "nosuch", "q"], &["inspect", "nosuch", "q"]] {
        let output = run(&mut host.command(command));
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains('q'), "{command:?}");
    }
}
