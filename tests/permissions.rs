//! Owners, permissions and ACLs: what another user may do, and what happens to set-user-ID.

use crate::model::harness::new_disk;
use crate::support::{Host, run, same_as_native, shell};
use larder::fs::{
    AllocateMode, Caller, Fs, FsOptions, Kind, NewNode, ROOT_INO, SetAttr, WriteMode, XattrFlags,
};
use larder::open_store::{OpenStore, StoreOptions};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Runs a script as root in `dir`; in it, `as UID GID COMMAND` runs a command as another user. Returns everything it
/// printed, with inode numbers, times and the directory's own path left out.
fn script(dir: &Path, text: &str) -> String {
    let prelude = "as() { u=$1; g=$2; shift 2; setpriv --reuid=$u --regid=$g --clear-groups -- \"$@\"; }\n\
                   chmod 777 .\nmode() { stat -c '%A %u %g %n' \"$@\"; }\n";
    let output =
        run(Command::new("bash").arg("-c").arg(format!("exec 2>&1\n{prelude}{text}")).current_dir(dir));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_kernel_checks_permissions() {
    same_as_native(|dir| {
        script(
            dir,
            "echo secret > s; chmod 600 s; chown 1000:1000 s
             as 1000 1000 cat s; as 1001 1001 cat s; as 1001 1001 sh -c 'echo x > s'
             mkdir d; chmod 700 d; touch d/f; as 1001 1001 ls d; as 1001 1001 cat d/f; as 1001 1001 touch d/g
             mkdir r; chmod 755 r; as 1001 1001 touch r/x; as 1001 1001 rm -f s; ls
             as 1001 1001 chmod 777 s; as 1001 1001 chown 1001 s; as 1000 1000 chgrp 1001 s; mode s",
        )
    });
}

#[test]
fn sticky_directories_protect_their_entries() {
    same_as_native(|dir| {
        script(
            dir,
            "mkdir t; chmod 1777 t; as 1000 1000 touch t/mine; as 1001 1001 rm -f t/mine
             as 1001 1001 mv t/mine t/yours; as 1000 1000 mv t/mine t/still; as 1000 1000 rm t/still; ls t",
        )
    });
}

#[test]
fn set_group_id_directories_hand_down_their_group() {
    same_as_native(|dir| {
        script(
            dir,
            "mkdir g; chgrp 2000 g; chmod 2777 g
             as 1000 1000 touch g/f; as 1000 1000 mkdir g/d; as 1000 1000 touch g/d/f; mode g g/f g/d g/d/f
             as 1000 1000 sh -c 'touch g/x; chmod 2755 g/x'; mode g/x
             as 1000 2000 sh -c 'touch g/y; chmod 2755 g/y'; mode g/y
             mkdir plain; chmod 777 plain; as 1000 1000 touch plain/f; mode plain/f",
        )
    });
}

#[test]
fn set_user_id_goes_with_a_write_and_a_change_of_owner() {
    same_as_native(|dir| {
        script(
            dir,
            "new() { rm -f f; echo data > f; chown 1000:1000 f; chmod $1 f; }
             for m in 6777 4777 2777 2767 6766; do
                 new $m; as 1001 1001 sh -c 'echo x >> f'; mode f
                 new $m; as 1001 1001 sh -c 'echo x > f'; mode f
                 new $m; as 1001 1001 truncate -s 1 f; mode f
                 new $m; echo x >> f; mode f
                 new $m; truncate -s 1 f; mode f
                 new $m; chown 1001 f; mode f
                 new $m; chgrp 1001 f; mode f
                 new $m; as 1001 1001 dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none; mode f
                 new $m; as 1001 1001 fallocate -l 10000 f; mode f
             done
             mkdir d; chmod 6755 d; chown 1000:1000 d; mode d",
        )
    });
}

#[test]
fn file_capabilities_go_with_a_write() {
    same_as_native(|dir| {
        script(
            dir,
            "new() { rm -f f; echo data > f; chmod 777 f; setcap cap_net_raw+ep f; }
             new; getcap f; echo x >> f; getcap f
             new; truncate -s 1 f; getcap f
             new; chown 1000 f; getcap f
             new; cp --preserve=all f g; getcap g",
        )
    });
}

#[test]
fn acls_do_what_they_do_on_ext4() {
    same_as_native(|dir| {
        script(
            dir,
            "get() { getfacl -np \"$@\" 2>&1; }
             echo data > f; chmod 640 f; setfacl -m u:1000:rw,g:2000:r f; get f; mode f
             as 1000 1000 sh -c 'echo more >> f && cat f'; as 1001 1001 cat f; as 1001 2000 cat f
             chmod 600 f; get f; as 1000 1000 cat f; chmod 666 f; get f
             setfacl -b f; get f; mode f; getfattr -m - f
             mkdir d; setfacl -d -m u:1000:rwx,g::rx,o::- d; get d
             (umask 077; touch d/f; mkdir d/s; mkfifo d/p); get d/f d/s d/p; touch d/s/deep; get d/s/deep
             setfacl -m u::rw,g::r,o::r f; get f; getfattr -m - f
             setfacl -d -m u:1000:r f; setfacl -k d; get d
             as 1001 1001 setfacl -m u:1001:rw f",
        )
    });
}

#[test]
fn setting_an_acl_takes_set_group_id_from_those_outside_the_group() {
    same_as_native(|dir| {
        script(
            dir,
            "touch f; chown 1000:2000 f; chmod 2775 f; as 1000 1000 setfacl -m u:1001:r f; mode f
             touch g; chown 1000:1000 g; chmod 2775 g; as 1000 1000 setfacl -m u:1001:r g; mode g",
        )
    });
}

#[test]
fn the_umask_applies_where_no_default_acl_does() {
    same_as_native(|dir| {
        script(
            dir,
            "(umask 027; touch a; mkdir b; mkfifo c; mknod d c 1 3); (umask 0; touch e; mkdir f); mode a b c d e f",
        )
    });
}

#[test]
fn ids_beyond_16_bits_are_kept() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    shell(&dir, "touch f; chown 4294967294:4000000000 f");
    let dir = host.remount("v");
    assert_eq!(shell(&dir, "stat -c '%u %g' f"), "4294967294 4000000000\n");
    fs::remove_file(dir.join("f")).unwrap();
}

/// The kernel tells only a caller's first group, and no ids at all where mounts can be id-mapped. To look into /proc takes long, beside
/// what most requests take: so it is left where nothing depends on it.
#[test]
fn a_caller_is_looked_up_only_where_set_ids_are_at_stake() {
    let store = OpenStore::open(Arc::new(new_disk(None, None)), None, StoreOptions::default()).unwrap();
    let fs = Fs::new(Arc::clone(&store), 1, FsOptions::default());
    // As the kernel says it of an id-mapped mount.
    let caller = Caller { uid: u32::MAX, gid: u32::MAX, pid: std::process::id() };
    let change_all = |ino, name: &[u8]| {
        let set = |set: SetAttr| {
            fs.setattr(ino, &set, caller).unwrap();
        };
        let before = Caller::lookups();
        let killer = Some(caller);
        fs.write(ino, 0, b"written", WriteMode { killer, ..WriteMode::default() }).unwrap();
        set(SetAttr { size: Some(4), ..SetAttr::default() });
        fs.allocate(ino, 0, 4096, AllocateMode::ZeroRange { keep_size: true }, caller).unwrap();
        fs.copy_range((ino, 0), (ino, 4096), 4, caller).unwrap();
        set(SetAttr { gid: Some(7), ..SetAttr::default() });
        set(SetAttr { permissions: Some(0o640), ..SetAttr::default() });
        fs.setxattr(ino, name, b"value", XattrFlags::default(), caller).unwrap();
        fs.listxattr(ino, caller).unwrap();
        Caller::lookups() - before
    };
    let make = |name: &[u8], permissions| {
        let node = NewNode { kind: Kind::Regular, permissions, umask: 0, rdev: 0, target: None };
        fs.make(ROOT_INO, name, &node, Caller::ROOT).unwrap().ino
    };
    assert_eq!(change_all(make(b"plain", 0o666), b"user.a"), 0);
    for (name, permissions, xattr) in
        [(b"u", 0o4755, &b"user.a"[..]), (b"g", 0o2755, b"user.a"), (b"t", 0o666, b"trusted.a")]
    {
        assert!(change_all(make(name, permissions), xattr) > 0, "{permissions:o}");
    }
    fs.forget_all();
    store.close().unwrap();
}
