//! A volume that is mounted on the host and bound into other mount namespaces, as any container engine does it.

use crate::support::Host;
use std::process::Output;

#[track_caller]
fn prints(output: &Output, expected: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert_eq!(text, expected);
}

/// Functions for scripts: `namespace PROPAGATION` starts a process in a mount namespace of its own and leaves its number
/// in `ns`; `within NUMBER COMMAND` runs something there.
const NAMESPACES: &str = r#"
    mount --make-rshared /
    # They end with this script: their standard input does.
    namespace() {
        coproc { unshare -m --propagation "$1" sh -c 'echo $$; read -r _ || true'; }
        read -r ns <&"${COPROC[0]}"
        eval "exec {keep$ns}>&${COPROC[1]}"
    }
    within() { target=$1; shift; nsenter -t "$target" -m -- "$@"; }
"#;

/// For scripts: a user namespace whose root is user 100000 of the host, as userns-remap and rootless engines make it;
/// `remapped COMMAND` runs something in it.
const USERS: &str = r#"
    coproc unshare --user sh -c 'echo $$; read -r _ || true'
    read -r owner <&"${COPROC[0]}"
    echo '0 100000 65536' > /proc/$owner/uid_map; echo '0 100000 65536' > /proc/$owner/gid_map
    remapped() { nsenter -t $owner --user -- "$@"; }
"#;

#[test]
fn a_volume_reaches_namespaces_that_receive_mounts_and_no_others() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(&format!(
        "{NAMESPACES}
         namespace slave 2>/dev/null; slave=$ns; namespace private 2>/dev/null; private=$ns
         mount -t larder v $V; echo data > $V/f
         within $slave cat $V/f
         within $private ls -A $V | wc -l
         # What is written where the volume is not mounted stays beside it, and hides below it.
         within $slave sh -c \"echo more > $V/g\"; ls $V | tr '\\n' ' '; echo
         umount $V; within $slave findmnt $V || echo gone
         mount -t larder v $V; within $slave cat $V/g; umount $V"
    ));
    prints(&output, "data\n0\nf g \ngone\nmore\n");
}

#[test]
fn a_namespace_that_keeps_a_volume_is_told_of_by_umount_and_does_not_lose_data() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(&format!(
        "{NAMESPACES}
         mount -t larder v $V; namespace private 2>/dev/null; keeper=$ns
         umount $V; within $keeper sh -c \"echo late > $V/f\"; within $keeper cat $V/f
         # It is still in use there, so it cannot be mounted a second time.
         mount -t larder v $V 2>&1 | grep -o 'still in use, perhaps in a container' || true
         within $keeper umount $V; mount -t larder v $V; cat $V/f; umount $V"
    ));
    prints(&output, "late\nstill in use, perhaps in a container\nlate\n");
}

#[test]
fn after_the_death_of_a_server_and_its_holder_only_binds_that_receive_mounts_come_back() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(&format!(
        "{NAMESPACES}
         mount -t larder v $V; echo data > $V/f
         # What an engine does with the directory above: `-v PARENT:/data:rslave`; and with the volume itself.
         namespace slave 2>/dev/null; slave=$ns; namespace private 2>/dev/null; private=$ns
         # And its holder first, so that no other server takes over.
         kill -9 $({larder} inspect v | sed -n 's/.*\"holder\": \\([0-9]*\\).*/\\1/p') \
                 $({larder} inspect v | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
         while cat $V/f 2>/dev/null; do sleep 0.01; done
         within $private cat $V/f 2>&1 | grep -o 'not connected'
         mount -t larder v $V 2>/dev/null; cat $V/f
         within $slave cat $V/f
         within $private cat $V/f 2>&1 | grep -o 'not connected'
         umount $V",
        larder = crate::support::larder()
    ));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The server may still answer a read or two while it is being killed.
    let end = text.trim_start_matches("data\n");
    assert!(output.status.success(), "{text}");
    assert_eq!(end, "not connected\ndata\ndata\nnot connected\n", "{text}");
}

#[test]
fn binds_can_be_read_only_beside_others_that_are_not() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let output = host.with_helpers(
        "mount -t larder v $V; mkdir $V/sub; echo data > $V/sub/f
         ro=$(mktemp -d); rw=$(mktemp -d); sub=$(mktemp -d); file=$(mktemp)
         mount --bind $V $ro; mount -o remount,bind,ro $ro
         mount --bind $V $rw; mount --bind $V/sub $sub; mount --bind $V/sub/f $file
         touch $ro/x 2>&1 | grep -o 'Read-only file system'
         rm $ro/sub/f 2>&1 | grep -o 'Read-only file system'
         echo more >> $rw/sub/f; cat $ro/sub/f $file | tr '\\n' ' '; ls $sub; echo
         # A bound file is the file, whatever becomes of its name.
         mv $sub/f $sub/g; echo end >> $file; tail -1 $ro/sub/g
         # Nothing of the volume is above what is bound.
         ls $sub/.snapshots 2>&1 | grep -o 'No such file'; [ $(stat -c %i $sub/..) = $(stat -c %i $sub/../.) ] && echo same
         umount $file $sub $rw $ro; rmdir $ro $rw $sub; rm $file; umount $V",
    );
    prints(
        &output,
        "Read-only file system\nRead-only file system\ndata more data more f\n\nend\nNo such file\nsame\n",
    );
}

#[test]
fn users_of_containers_have_the_rights_of_their_numbers() {
    let host = Host::new();
    host.ok(&["create", "v", "--uid", "1000", "--gid", "1000", "--mode", "2770"]);
    // (Where every user gets to, and nothing of the host's has to be changed for that.)
    let bound = host.public_dir("bound");
    let output = host.with_helpers(&format!("b={}\n{RIGHTS}", bound.display()));
    prints(
        &output,
        "1000:1000 640\nPermission denied\nmine\nPermission denied\nPermission denied\n2000:1000\nnot permitted\n",
    );
}

const RIGHTS: &str =
        "as() { local who=$1; shift; setpriv --reuid $who --regid $who --clear-groups -- \"$@\"; }
         mount -t larder v $V; mount --bind $V $b
         as 1000 sh -c \"umask 027; echo mine > $b/f\"; stat -c '%u:%g %a' $b/f
         as 2000 cat $b/f 2>&1 | grep -o 'Permission denied'
         setpriv --reuid 2000 --regid 2000 --groups 1000 -- cat $b/f
         setpriv --reuid 2000 --regid 2000 --groups 1000 -- sh -c \"echo x >> $b/f\" 2>&1 | grep -o 'Permission denied'
         # Root without its capabilities, as in a container that drops them, is a user like any other.
         setpriv --bounding-set -all --inh-caps -all --no-new-privs -- cat $b/f 2>&1 | grep -o 'Permission denied'
         chmod 2777 $V; as 2000 touch $b/g; stat -c '%u:%g' $b/g
         chmod +t $V; as 3000 rm -f $b/g 2>&1 | grep -o 'not permitted'
         umount $b; umount $V";

#[test]
fn a_user_namespace_sees_its_own_numbers() {
    let host = Host::new();
    host.ok(&["create", "v", "--uid", "100000", "--gid", "100000"]);
    let output = host.with_helpers(&format!(
        "{USERS}
         mount -t larder v $V; echo secret > $V/host; chmod 600 $V/host
         remapped sh -c \"id -u; stat -c '%u:%g' $V; echo mine > $V/f; stat -c '%u:%g' $V/f $V/host\"
         stat -c '%u:%g' $V/f
         remapped sh -c \"chown 1000:1000 $V/f; stat -c '%u:%g' $V/f\"; stat -c '%u:%g' $V/f
         # Its root is root of nothing else.
         remapped cat $V/host 2>&1 | grep -o 'Permission denied'
         remapped chown 0:0 $V/host 2>&1 | grep -o 'not permitted'
         remapped setfattr -n trusted.x -v y $V/f 2>&1 | grep -o 'not permitted'
         remapped mknod $V/dev c 1 3 2>&1 | grep -o 'not permitted'
         umount $V"
    ));
    prints(
        &output,
        "0\n0:0\n0:0\n65534:65534\n100000:100000\n1000:1000\n101000:101000\nPermission denied\nnot permitted\n\
         not permitted\nnot permitted\n",
    );
}

/// Binds `$1` to `$2` with the ids of user namespace `$3`, which mount(8) of Debian 12 cannot do yet.
const BIND_MAPPED: &str = r#"
import ctypes, os, struct, sys
source, target, namespace = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR, HERE = 428, 429, 442, -100
tree = call(OPEN_TREE, HERE, source.encode(), 1)
attributes = struct.pack("QQQQ", 0x100000, 0, 0, os.open(namespace, os.O_RDONLY))
call(MOUNT_SETATTR, tree, b"", 0x1000, attributes, len(attributes))
call(MOVE_MOUNT, tree, b"", HERE, target.encode(), 4)
"#;

#[test]
fn id_mapped_mounts_shift_the_numbers_of_users() {
    let host = Host::new();
    host.ok(&["create", "v"]);
    let tool = host.dir("tools").join("bind-mapped.py");
    std::fs::write(&tool, BIND_MAPPED).unwrap();
    let output = host.with_helpers(&format!(
        "{USERS}
         namespace=/proc/$owner/ns/user
         b=$(mktemp -d)
         mount -t larder v $V; python3 {tool} $V $b $namespace 2>&1 || true; umount $V
         mount -t larder v $V -o idmap=on; python3 {tool} $V $b $namespace
         # What root of the host owns is root's of the namespace, and what that one makes is root's of the host.
         echo data > $V/f; chmod 600 $V/f; stat -c '%u:%g' $b/f
         remapped sh -c \"cat $b/f; echo more >> $b/f; mkdir $b/d; touch $b/d/g; chown 1000:1000 $b/d/g; stat -c '%u:%g' $b/d/g\"
         stat -c '%u:%g %a' $V/f $V/d $V/d/g
         # Nobody else's rights grow by it.
         setpriv --reuid 1000 --regid 1000 --clear-groups cat $b/f 2>&1 | grep -o 'Permission denied'
         setpriv --reuid 0 --clear-groups touch $b/h 2>&1 | grep -o 'too large'
         remapped setfattr -n trusted.x -v y $b/f 2>&1 | grep -o 'not permitted'
         # Whose writes take set-user-ID away is still known, on either mount.
         for dir in $V $b; do
             touch $V/s; chmod 4777 $V/s; setpriv --reuid 2000 --regid 2000 --clear-groups sh -c \": > $V/s\"; stat -c %a $V/s
             chmod 6777 $V/s; setpriv --reuid 101000 --regid 101000 --clear-groups truncate -s 5 $dir/s; stat -c %a $V/s
         done
         chmod 4755 $V/s; truncate -s 6 $V/s; stat -c %a $V/s
         setfattr -n trusted.x -v y $V/f; getfattr -m - $V/f 2>/dev/null | grep -c trusted
         chmod 644 $V/f; setpriv --reuid 1000 --regid 1000 --clear-groups getfattr -m - $V/f 2>/dev/null | grep -c trusted || true
         umount $b; rmdir $b; umount $V",
        tool = tool.display()
    ));
    prints(
        &output,
        "Invalid argument\n100000:100000\ndata\n1000:1000\n0:0 600\n0:0 755\n1000:1000 644\nPermission denied\ntoo large\n\
         not permitted\n777\n777\n777\n777\n4755\n1\n0\n",
    );
}
