//! `mount -t larder`, `/etc/fstab` and `umount`, as mount(8) documents them.

use crate::bad_input::SmallDisk;
use crate::support::Host;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

#[track_caller]
fn prints(output: &Output, expected: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert_eq!(text, expected);
}

#[test]
fn mount_and_umount_work_as_for_any_file_system() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(
        "mount -t larder v $V -o noatime,commit=1,nosuid
         findmnt -no SOURCE,FSTYPE $V | tr -s ' '
         findmnt -no OPTIONS $V | tr ',' '\\n' | grep -E '^(rw|nosuid|noatime)$' | tr '\\n' ' '
         echo data > $V/f; umount $V
         mount -t larder v $V -o ro; cat $V/f; if touch $V/g 2>/dev/null; then exit 1; fi
         mount -o remount,rw $V; touch $V/g; ls $V; umount $V; ls $V | wc -l",
    );
    prints(&output, "v fuse.larder\nrw nosuid noatime data\nf\ng\n0\n");
}

#[test]
fn fstab_lines_work() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let fstab = host.dir("etc").join("fstab");
    let line = format!(
        "v {} larder noatime,commit=1,nofail,_netdev,x-systemd.requires=x,root={} 0 0\n",
        host.public_dir("v").display(),
        host.root().display()
    );
    fs::write(&fstab, line).unwrap();
    let output = host.with_helpers(
        &format!(
            "unset LARDER_ROOT; mount -a -T {0}; mount -a -T {0}; findmnt -no SOURCE $V; umount $V; mount -T {0} $V; \
             umount -l $V; findmnt -no SOURCE $V || echo gone",
            fstab.display()
        ),
    );
    prints(&output, "v\ngone\n");
}

/// The helper of umount(8) is not told of options, and so not of which root it is: it said that it was done while the store was still being closed.
#[test]
fn what_is_unmounted_is_on_the_disk_whatever_its_root_is() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    // There is a volume of that name in the root that is usual here, too.
    let other = host.dir("other");
    let fstab = host.dir("etc").join("fstab");
    let line =
        format!("v {} larder _netdev,root={} 0 0\n", host.public_dir("v").display(), host.root().display());
    fs::write(&fstab, line).unwrap();
    let output = host.with_helpers(&format!(
        "export LARDER_ROOT={other}; {larder} create v > /dev/null
         for i in 1 2 3; do
             mount -T {fstab} $V
             head -c 3000000 /dev/urandom > $V/f; sync $V/f; for n in $(seq 300); do echo > $V/$n; done
             umount $V
             ls {root}/stores/*/control 2>/dev/null || echo closed
         done
         {larder} umount --all; {larder} umount v 2>&1 || true",
        other = other.display(),
        larder = crate::support::larder(),
        fstab = fstab.display(),
        root = host.root().display(),
    ));
    prints(&output, "closed\nclosed\nclosed\nlarder: volume \"v\" is not mounted\n");
    host.check("v");
}

/// Those of mount(8) that do not belong to a file system. What the kernel shows of them is what it took.
#[test]
fn options_of_every_file_system_are_taken() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let shown = "findmnt -no OPTIONS $V | tr ',' '\\n' | grep -xE 'lazytime|dirsync|sync|nosymfollow|noatime|nodiratime|ro|nodev' | sort | tr '\\n' ' '";
    let output = host.with_helpers(&format!(
        "for o in defaults auto noauto user users owner group nouser _netdev nofail x-foo comment=a lazytime nolazytime dirsync \
                  async sync iversion noiversion silent loud mand nomand suid dev exec atime noatime diratime nodiratime relatime \
                  norelatime strictatime nostrictatime nosymfollow symfollow uhelper=x; do
             mount -t larder v $V -o $o || echo \"no $o\"; mountpoint -q $V || echo \"not with $o\"; umount $V
         done
         mount -t larder v $V -o lazytime,dirsync,nosymfollow,silent,iversion,mand; {shown}; echo
         echo data > $V/f; ln -s f $V/l; cat $V/l 2>/dev/null || echo not followed
         mount -o remount,nolazytime,symfollow,nodev $V; {shown}; cat $V/l
         mount -o remount,nosymfollow $V; cat $V/l 2>/dev/null || echo not followed
         umount $V; larder() {{ {program} \"$@\"; }}; larder mount v $V -o nosymfollow,lazytime >/dev/null; {shown}; echo
         larder umount $V",
        program = crate::support::larder()
    ));
    prints(
        &output,
        "dirsync lazytime nosymfollow \nnot followed\ndirsync nodev data\nnot followed\nlazytime nosymfollow \n",
    );
}

/// What the device below was asked to make durable, so far.
fn flushes(disk: &SmallDisk) -> u64 {
    let device = nix::sys::stat::stat(disk.path()).unwrap().st_dev;
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    // Field 16 of Documentation/block/stat.rst: flush requests completed.
    stat.split_whitespace().nth(15).unwrap().parse().unwrap()
}

#[test]
fn changes_of_names_are_durable_at_once_where_the_mount_wants_it() {
    const CHANGES: u64 = 8;
    let disk = SmallDisk::new(96);
    let host = Host::with_root(disk.path().join("root"));
    host.ok(&["create", "v"]);
    for (options, wants_it) in [("dirsync", true), ("sync", true), ("async", false)] {
        let dir = host.mount("v", &["-o", &format!("{options},commit=3600")]);
        let before = flushes(&disk);
        crate::support::shell(
            &dir,
            "mknod f p; mkdir d; ln -s f l; ln f g; mv g h; rm h; rmdir d; rm f; rm l",
        );
        let flushed = flushes(&disk) - before;
        assert_eq!(flushed >= CHANGES, wants_it, "{options}: {flushed} flushes");
        host.umount("v");
    }
}

#[test]
fn failures_have_the_codes_of_mount() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(
        "set +e; exec 2>/dev/null
         mount -t larder nope $V >/dev/null; echo $?
         mount -t larder v $V/missing >/dev/null; echo $?
         mount -t larder v $V -o nonsense >/dev/null; echo $?
         mount -t larder v $V -s -o nonsense >/dev/null; echo $?
         mount -t larder v /mnt >/dev/null; echo $?
         mount.larder >/dev/null; echo $?
         mount -f -t larder v $V; echo $?
         umount $V; umount $V >/dev/null; echo $?",
    );
    prints(&output, "32\n32\n1\n0\n32\n1\n0\n32\n");
}

#[test]
fn umount_by_hand_leaves_everything_on_disk() {
    let host = Host::plain();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    // umount(2), without any helper: the server notices and finishes by itself.
    nix::mount::umount(&dir).unwrap();
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    host.umount("v");
    host.check("v");
}

#[test]
fn a_volume_that_was_unmounted_by_hand_can_be_removed_at_once() {
    let host = Host::new();
    for _ in 0..5 {
        let dir = host.volume("v", &[]);
        fs::write(dir.join("f"), "data").unwrap();
        nix::mount::umount(&dir).unwrap();
        host.ok(&["rm", "v"]);
    }
}

#[test]
fn a_bind_mount_keeps_the_volume_alive() {
    let host = Host::plain();
    let dir = host.volume("v", &[]);
    let bound = host.dir("bound");
    nix::mount::mount(Some(&dir), &bound, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).unwrap();
    host.adopt(&bound);
    host.ok(&["umount", dir.to_str().unwrap()]);
    fs::write(bound.join("f"), "through the bind mount").unwrap();
    host.ok(&["umount", bound.to_str().unwrap()]);
    let dir = host.mount("v", &[]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "through the bind mount");
}

/// At boot, the kernel's module is loaded by whoever needs it first, and its device comes a moment later.
#[test]
fn a_device_that_is_not_there_yet_is_waited_for() {
    let host = Host::plain();
    host.ok(&["create", "v"]);
    let modprobe = host.dir("sbin").join("modprobe");
    let script = |text: &str| {
        fs::write(&modprobe, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&modprobe, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let without = "mount -t tmpfs tmpfs /dev
         for node in null:3 zero:5 random:8 urandom:9; do mknod -m 666 /dev/${node%:*} c 1 ${node#*:}; done";
    script("[ \"$1\" = fuse ] || exit 1; (sleep 0.5; mknod /dev/fuse c 10 229) &");
    let output =
        host.with_helpers(&format!("{without}; mount -t larder v $V; echo data > $V/f; cat $V/f; umount $V"));
    prints(&output, "data\n");
    script("exit 1");
    let output = host.with_helpers(&format!(
        "{without}; mount -t larder v $V 2>&1 | grep -o 'load FUSE with `modprobe fuse`'"
    ));
    prints(&output, "load FUSE with `modprobe fuse`\n");
}
