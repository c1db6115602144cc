//! Mounts of an ordinary user, by fusermount3(1).

use super::user::{UID, User};

/// Whether another user can list what is mounted at the user's home.
fn lets_in(user: &User, uid: u32) -> bool {
    let home = user.home();
    let list = format!("setpriv --reuid={uid} --regid={uid} --clear-groups ls {}/v", home.display());
    user.as_root(&format!("if {list} >/dev/null 2>&1; then echo yes; fi")) == "yes"
}

#[test]
fn a_user_mounts_works_and_unmounts() {
    let user = User::new();
    user.sh("larder create db --size 100M; mkdir v; larder mount db v; echo data > v/f; mkdir v/d; ln v/f v/d/link
             chmod 4755 v/f; sync v/f; setfattr -n user.a -v b v/f 2>/dev/null || true");
    let seen = user.sh("findmnt -no SOURCE,FSTYPE,OPTIONS v | tr -s ' '");
    assert!(seen.starts_with("db fuse.larder rw,nosuid,nodev,"), "{seen}");
    assert!(seen.contains("default_permissions") && seen.contains(&format!("user_id={UID}")), "{seen}");
    assert_eq!(user.sh("stat -c '%u %g' v v/f"), format!("{UID} {UID}\n{UID} {UID}"));
    assert_eq!(user.sh("df -k --output=size v | tail -n 1 | tr -d ' '"), "102400");
    // Programs, files larger than any cache, and what was just written is in a snapshot.
    user.sh("cp /bin/true v/program; v/program; head -c 50M /dev/urandom > v/large; sha256sum v/large > sum
             echo last > v/last; larder snapshot create db@one; grep last v/.snapshots/one/last; sha256sum -c sum >/dev/null");
    assert!(user.json("larder ls --json")[0]["mountpoints"][0].as_str().unwrap().ends_with("/v"));
    user.sh("larder df db | grep -q db; larder check db; larder resize db --size 200M");
    // A program has it open.
    let busy = user.fails(5, "exec 9< v/f; larder umount db");
    assert!(busy.contains("in use"), "{busy}");
    user.sh("larder umount v");
    user.await_no_server();
    assert_eq!(user.sh("ls -A v"), "");
    user.sh("larder check db --read-data; larder mount db v; sha256sum -c sum >/dev/null || (cd v && sha256sum large)
             exec 9< v/f; larder umount --lazy db; cat <&9; exec 9<&-");
    user.await_no_server();
    user.sh("larder mount db@one v; cat v/last; if touch v/x; then exit 1; fi; fusermount3 -u v");
    user.await_no_server();
    user.sh("larder rm --force db");
}

#[test]
fn options_of_a_users_mount_do_what_they_say() {
    let user = User::new();
    user.sh("larder create db; mkdir v; larder mount db v -o noexec,noatime,sync,dirsync,cache-size=16M,commit=1,sched=fifo
             cp /bin/true v/program; if v/program; then exit 1; fi");
    let flags = user.sh("findmnt -no OPTIONS v");
    assert!(flags.contains("noexec,noatime") && flags.contains("sync"), "{flags}");
    // What is the server's can be changed, and what is the kernel's cannot.
    user.sh("larder mount db v -o remount,noexec,noatime,sync,dirsync,commit=60,awake=off");
    let options = user.json("larder inspect db");
    let refused = user.fails(7, "larder mount db v -o remount,ro");
    assert!(refused.contains("mount it again"), "{refused}");
    assert!(options.to_string().contains("commit=60"), "{options}");
    // What is refused is not done by half: and so what changes nothing of the kernel's is still let through.
    user.fails(7, "larder mount db v -o remount,commit=3");
    let options = user.json("larder inspect db");
    assert!(options.to_string().contains("commit=60"), "{options}");
    user.sh("larder mount db v -o remount,noexec,noatime,sync,dirsync,commit=5,awake=off");
    user.sh("touch v/still-writable; larder umount db; larder mount db v -o ro; cmp /bin/true v/program; if touch v/x; then exit 1; fi
             larder umount db; larder mount db v -o transport=fuser; cmp /bin/true v/program; larder umount db");
    // What not every version of fusermount3 knows, is done or refused.
    let tried = user.run("larder mount db v -o nosymfollow && findmnt -no OPTIONS v && larder umount db");
    let said = String::from_utf8_lossy(&[tried.stdout, tried.stderr].concat()).into_owned();
    assert!(said.contains(if tried.status.success() { "nosymfollow," } else { "unknown option" }), "{said}");
}

#[test]
fn others_are_let_in_only_where_the_administrator_and_the_user_say_so() {
    let user = User::new();
    user.sh("larder create db; mkdir v; chmod 755 .");
    let refused = user.fails(7, "larder mount db v -o allow_other");
    assert!(refused.contains("user_allow_other") && refused.contains("/etc/fuse.conf"), "{refused}");
    assert_eq!(user.sh("ls -A v"), "");
    user.await_no_server();
    user.configure_fuse("user_allow_other");
    user.sh("larder mount db v; touch v/f");
    assert!(!lets_in(&user, 1), "it was not asked for");
    user.sh("larder umount db; larder mount db v -o allow_other");
    assert!(lets_in(&user, 1) && lets_in(&user, 0));
    // What permissions forbid, they go on forbidding.
    user.sh("chmod 700 v");
    assert!(!lets_in(&user, 1));
    user.sh("larder umount db");
}

/// `user` in fstab(5): mount(8) runs its helper as who calls it.
#[test]
fn mount_8_mounts_for_a_user_whom_fstab_lets() {
    let user = User::new();
    let home = user.home();
    user.as_root(&format!(
        "mkdir -p {0}/sbin-upper {0}/sbin-work; for name in mount umount; do ln -s {1}/bin/larder {0}/sbin-upper/$name.fuse.larder
             ln -s {1}/bin/larder {0}/sbin-upper/$name.larder; done
         mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={0}/sbin-upper,workdir={0}/sbin-work /usr/sbin
         echo 'db {2}/v larder user,noauto,noatime 0 0' > {0}/fstab; mount --bind {0}/fstab /etc/fstab",
        user.disk().display(),
        user.public().display(),
        home.display()
    ));
    user.sh("larder create db; mkdir v; mount v; findmnt -no OPTIONS v | grep -q noatime; echo data > v/f; umount v; [ ! -e v/f ]
             mount v; grep data v/f; larder umount v");
    user.await_no_server();
}

#[test]
fn two_users_do_not_see_each_others_volumes() {
    let (one, two) = (User::new(), User::new());
    for user in [&one, &two] {
        user.sh("larder create db; mkdir v; larder mount db v; echo data > v/f");
    }
    let ls = |user: &User| user.json("larder ls --json").as_array().unwrap().len();
    assert_eq!((ls(&one), ls(&two)), (1, 1));
    one.sh("larder umount db; larder rm --force db");
    two.sh("grep data v/f; larder umount db");
}
