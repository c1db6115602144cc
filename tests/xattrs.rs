//! Extended attributes.

use crate::support::{Host, same_as_native, shell};
use std::path::Path;

fn python(dir: &Path, text: &str) -> String {
    let script = dir.parent().unwrap().join("xattr.py");
    let prelude = "import os, errno\ndef t(f, *a, **k):\n    try: return f(*a, **k)\n    except OSError as e: return errno.errorcode[e.errno]\n";
    std::fs::write(&script, format!("{prelude}{text}")).unwrap();
    shell(dir, &format!("python3 {}", script.display()))
}

#[test]
fn attributes_do_what_they_do_on_ext4() {
    same_as_native(|dir| {
        python(
            dir,
            "
open('f', 'w').close(); os.mkdir('d'); os.symlink('f', 'l'); os.mkfifo('p')
print(t(os.setxattr, 'f', 'user.a', b'one'), t(os.getxattr, 'f', 'user.a'), t(os.getxattr, 'f', 'user.b'))
print(t(os.setxattr, 'f', 'user.a', b'two', os.XATTR_CREATE), t(os.setxattr, 'f', 'user.b', b'', os.XATTR_REPLACE))
print(t(os.setxattr, 'f', 'user.a', b'two', os.XATTR_REPLACE), t(os.setxattr, 'f', 'user.empty', b''))
print(sorted(os.listxattr('f')), t(os.getxattr, 'f', 'user.empty'))
print(t(os.removexattr, 'f', 'user.a'), t(os.removexattr, 'f', 'user.a'), os.listxattr('f'))
print(t(os.setxattr, 'f', 'trusted.t', b'x'), t(os.setxattr, 'f', 'security.s', b'x'), t(os.setxattr, 'f', 'nonsense.x', b'x'), t(os.setxattr, 'f', 'user.', b'x'))
print(t(os.setxattr, 'f', 'user.' + 'n' * 250, b'x'), t(os.setxattr, 'f', 'user.' + 'n' * 251, b'x'))
print(t(os.setxattr, 'd', 'user.d', b'x'), t(os.setxattr, 'l', 'user.l', b'x', follow_symlinks=False), t(os.setxattr, 'p', 'user.p', b'x'), t(os.setxattr, 'l', 'trusted.l', b'x', follow_symlinks=False))
print(t(os.setxattr, 'f', 'user.big', b'x' * 65537))
pid = os.fork()
if pid == 0:
    os.setgid(1000); os.setuid(1000)
    print(sorted(os.listxattr('f')), t(os.getxattr, 'f', 'trusted.t'), t(os.setxattr, 'f', 'user.mine', b'x'), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
",
        )
    });
}

/// `tar --acls` and others say for each file that it is to have no ACL.
#[test]
fn an_acl_that_is_not_there_can_be_removed() {
    same_as_native(|dir| {
        python(
            dir,
            "
open('f', 'w').close(); os.mkdir('d'); os.mkfifo('p'); os.symlink('f', 'l')
for path in 'fdp':
    for acl in ('system.posix_acl_access', 'system.posix_acl_default'):
        print(path, acl, t(os.removexattr, path, acl), t(os.setxattr, path, acl, b'\\x02\\0\\0\\0'), t(os.getxattr, path, acl))
print(t(os.removexattr, 'l', 'system.posix_acl_access', follow_symlinks=False), t(os.removexattr, 'f', 'user.x'), t(os.removexattr, 'f', 'security.capability'))
os.system('setfacl -m u:1000:rwx f; setfacl -b f; setfacl -b f; setfacl -d -m u:1000:rwx d; setfacl -k d; setfacl -k d; getfacl f d')
",
        )
    });
}

#[test]
fn large_values_are_kept_up_to_a_limit() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    python(
        &dir,
        "
open('f', 'w').close()
os.setxattr('f', 'user.large', bytes(range(256)) * 200)
assert t(os.setxattr, 'f', 'user.more', b'x' * 20000) == 'ENOSPC'
for i in range(100): os.setxattr('f', f'user.n{i}', b'v' * 20)
",
    );
    let dir = host.remount("v");
    python(
        &dir,
        "
assert os.getxattr('f', 'user.large') == bytes(range(256)) * 200
assert len(os.listxattr('f')) == 101
os.unlink('f')
",
    );
    host.umount("v");
    host.check("v");
}

/// `ls -l` asks for them, file by file, unless it is told that there are none.
#[test]
fn labels_of_selinux_are_supported_once_there_is_one() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    python(
        &dir,
        "
for name in 'fgh': open(name, 'w').close()
assert t(os.getxattr, 'f', 'security.selinux') == 'ENOTSUP'
assert t(os.getxattr, 'f', 'security.other') == 'ENODATA'
os.setxattr('g', 'security.selinux', b'label')
",
    );
    let look = "
assert t(os.getxattr, 'f', 'security.selinux') == 'ENODATA'
assert t(os.getxattr, 'g', 'security.selinux') == b'label'
";
    python(&dir, look);
    let dir = host.remount("v");
    python(&dir, look);
}
