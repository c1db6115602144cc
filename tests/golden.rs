//! Stores that earlier programs made: every version opens them and finds what was in them. `scripts/golden` made them.

use crate::support::{Host, shell, state};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn opens(name: &str, options: &[&str], secret: &[&str]) {
    let host = Host::plain();
    let tmp = host.root().parent().unwrap();
    shell(tmp, &format!("tar -xJf {}", fixtures().join(format!("{name}.tar.xz")).display()));
    // Who only looks changes nothing, however old the store is.
    let files = || shell(host.root(), "find . -type f ! -name lock -exec sha256sum {} + | sort");
    let before = files();
    host.ok(&["ls"]);
    host.ok(&[&["inspect", "db"], secret].concat());
    host.ok(&[&["check", "db", "--read-data"], secret].concat());
    assert_eq!(files(), before);
    for volume in ["db", "db@one", "db@two", "twin"] {
        let dir = host.mount(volume, options);
        let expected =
            fs::read_to_string(fixtures().join(format!("{name}.{}.state", volume.replace('@', "-"))));
        assert_eq!(state(&dir), expected.unwrap(), "{name}: {volume}");
        if volume == "db" {
            assert_eq!(shell(&dir, "getfattr -n user.golden --only-values dir/f3"), "yes");
            let info = host.json(&["inspect", "db"]);
            assert_eq!(info["labels"]["app"], "golden");
            // It has no limit that it did not have, and its metadata are counted.
            assert_eq!(info["metadata"], serde_json::Value::Null);
            assert!(info["metadata_used"].as_u64().is_some_and(|bytes| bytes > 256), "{info:#}");
        }
        host.umount(volume);
    }
    // An older program refuses it by name from now on.
    let header = fs::read_to_string(host.store("db").join("header.json")).unwrap();
    for feature in ["\"metadata-limits\"", "\"reserved-runs\"", "\"unnamed-files\""] {
        assert!(header.contains(feature), "{header}");
    }
    host.ok(&[&["check", "db", "--read-data"], secret].concat());
    // And goes on with them.
    host.ok(&[&["snapshot", "rm", "db@one"], secret].concat());
    let dir = host.mount("db", options);
    shell(&dir, "echo more > more; rm -r dir; sync more");
    host.umount("db");
    host.ok(&[&["rm", "db"], secret].concat());
    host.ok(&[&["check", "twin", "--read-data"], secret].concat());
}

#[test]
fn version_1() {
    opens("golden-1", &[], &[]);
}

#[test]
fn version_1_encrypted() {
    let key = fixtures().join("golden.key");
    let key = key.to_str().unwrap();
    opens("golden-1-encrypted", &["-o", &format!("key-file={key}")], &["--key-file", key]);
}
