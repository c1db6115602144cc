//! The memory that caches of all volumes share.

use crate::support::{Host, pattern, shell, succeed, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Volumes on a host where caches may have so many MiB.
struct Shared {
    host: Host,
    file: PathBuf,
}

impl Shared {
    fn new(total: u64) -> Self {
        let host = Host::new();
        let file = host.dir("etc").join("larder.toml");
        fs::write(&file, format!("cache-total = \"{total}M\"\n")).unwrap();
        Self { host, file }
    }

    /// A mounted volume with a file of 40 MiB.
    fn volume(&self, name: &str, options: &[&str]) -> PathBuf {
        self.host.ok(&["create", name]);
        let dir = self.host.make_mountpoint(name);
        let mount = [&["mount", name, dir.to_str().unwrap()], options].concat();
        succeed(self.host.command(&mount).env("LARDER_CONFIG", &self.file));
        fs::write(dir.join("file"), pattern(40 << 20, 7)).unwrap();
        dir
    }

    /// What the caches of a volume's server have, may have, and may have with all others.
    fn caches(&self, name: &str) -> (u64, u64, u64) {
        let server = &self.host.json(&["inspect", name])["server"];
        let bytes = |field: &str| server[field].as_u64().unwrap();
        (bytes("cache_bytes"), bytes("cache_limit_bytes"), bytes("cache_total_bytes"))
    }
}

/// Reads the file past the kernel's cache.
fn read(dir: &Path) {
    shell(dir, "dd if=file of=/dev/null bs=1M iflag=direct status=none");
}

#[test]
fn volumes_share_the_memory_for_caches_by_use() {
    let shared = Shared::new(24);
    let (a, b) = (shared.volume("a", &[]), shared.volume("b", &[]));
    let of = |name: &str| {
        let (used, own, total) = shared.caches(name);
        assert_eq!(total, 24 * MIB);
        // Metadata may have come in since it last looked.
        assert!(own <= 24 * MIB && used <= own + 4 * MIB, "{used} {own}");
        own
    };
    wait_until("both have as much", || {
        read(&a);
        read(&b);
        let (of_a, of_b) = (of("a"), of("b"));
        (11..=12).contains(&(of_a / MIB)) && (11..=12).contains(&(of_b / MIB))
    });
    shared.host.kill_server("b");
    wait_until("the other has all", || {
        read(&a);
        of("a") == 24 * MIB
    });
    shared.host.umount("a");
}

#[test]
fn a_volume_that_nobody_uses_gives_back_what_its_caches_have() {
    let shared = Shared::new(24);
    let (a, b) = (shared.volume("a", &[]), shared.volume("b", &["-o", "cache-size=4M"]));
    read(&a);
    // That one is used, and its own limit holds.
    wait_until("the first has next to nothing", || {
        read(&b);
        // Whoever asks all the time uses it.
        std::thread::sleep(Duration::from_secs(2));
        let (used, own, _) = shared.caches("a");
        used < 2 * MIB && own < MIB
    });
    let (used, own, _) = shared.caches("b");
    assert!(own >= 12 * MIB && used < 7 * MIB, "{used} {own}: 4 MiB of blocks, and a few metadata");
    for name in ["a", "b"] {
        shared.host.umount(name);
    }
}
