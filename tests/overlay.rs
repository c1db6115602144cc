//! Overlayfs with its upper layer on a volume: what Docker, BuildKit, Podman and kind make of their storage.

use crate::support::{Host, run, shell};
use std::path::Path;
use std::process::Command;

/// Changes everything that a lower layer can have, in a directory `m` on which an overlay of `l` and `u` is mounted with
/// further `options`; then shows what there is, and what the upper layer is.
fn change(dir: &Path, options: &str, unshare: &str) -> String {
    let script = format!(
        "set -e; cd {dir}; mkdir l u w m; cd l; mkdir d d/sub; echo low > f; echo 1 > d/x; ln f hard; ln -s f soft
         head -c 3000000 /dev/zero > big; setfattr -n user.a -v b f; chmod 1751 f; echo gone > gone; mkdir full; touch full/y; cd ..
         mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w{options} m; cd m
         echo two >> f; cat f hard; mv d e 2>/dev/null || {{ cp -a d e; rm -r d; }}; cat e/x; rm gone; mkdir gone; rm -r full; touch full
         echo more >> big; stat -c %s big; ln big big2; mv soft softer; chmod 700 e/sub; setfattr -n user.c -v d e
         python3 -c 'import os; f = os.open(\".\", os.O_TMPFILE | os.O_RDWR); os.write(f, b\"x\"); os.link(f\"/proc/self/fd/{{f}}\", \"tmp\", dst_dir_fd=os.open(\".\", os.O_RDONLY))'
         find . -printf '%P %y %m %n %s %l\\n' | grep -v ' d ' | sort; find . -type d | sort; getfattr -Rd -m user -h . | grep -v '^#' | grep . | sort
         cd ..; umount m; cd u; find . -printf '%P %y %m\\n' | sort; find . -type c -exec stat -c '%n %t:%T' {{}} + | sort
         getfattr -Rd -m 'overlay.opaque|overlay.redirect' -h . 2>/dev/null | grep -v '^#' | grep . | sort
         cd ..; rm -rf u w l m",
        dir = dir.display()
    );
    let output = run(Command::new("unshare").args(unshare.split(' ')).args([
        "bash",
        "-c",
        &format!("exec 2>&1; {script}"),
    ]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", shell(dir, "dmesg | grep -i overlay | tail -n 5 || true"));
    text
}

#[test]
fn an_upper_layer_on_a_volume_is_as_one_on_ext4() {
    let host = Host::new();
    let (volume, native) = (host.volume("v", &[]), host.dir("native"));
    for options in ["", ",redirect_dir=on,metacopy=on", ",index=off,xino=off"] {
        assert_eq!(change(&volume, options, "-m"), change(&native, options, "-m"), "{options}");
    }
    host.umount("v");
    host.check("v");
}

/// As rootless engines mount it: what overlayfs knows of its files is in `user.overlay.*`.
#[test]
fn an_upper_layer_of_a_user_namespace_is_as_one_on_ext4() {
    let host = Host::new();
    let (volume, native) = (host.volume("v", &[]), host.dir("native"));
    assert_eq!(change(&volume, ",userxattr", "-Urm"), change(&native, ",userxattr", "-Urm"));
    host.umount("v");
    host.check("v");
}
