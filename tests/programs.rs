//! Real programs doing real work on a volume, and finding it again after a remount and after a killed server.
//!
//! `scripts/test` installs what they need: git, rsync, fio, SQLite, PostgreSQL, the Linux source, tar, acl, attr.

use crate::support::{Background, Host, is_running, shell, succeed, wait_until};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn git_clones_packs_and_checks_this_project() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let project = env!("CARGO_MANIFEST_DIR");
    shell(
        &dir,
        &format!(
            "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
             GIT_COMMITTER_EMAIL=a@b
             git -c safe.directory='*' clone -q --no-local {project} repo; cd repo; git gc -q --aggressive
             git fsck --full --strict; if git status --porcelain | grep .; then exit 1; fi
             for i in {{1..20}}; do echo $i > f$i; git add f$i; git commit -qm $i; done
             git checkout -qb side HEAD~5; git merge -q -; git repack -qad"
        ),
    );
    let dir = host.remount("v");
    shell(
        &dir.join("repo"),
        "git fsck --full --strict; if git status --porcelain | grep .; then exit 1; fi; git log --oneline | wc -l",
    );
    host.umount("v");
    host.check("v");
}

#[test]
fn cargo_builds_a_crate() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let output = shell(
        &dir,
        "cargo new --quiet --vcs none hello 2>/dev/null; cd hello
         for i in {1..50}; do echo \"pub fn f$i() -> u32 { $i }\" > src/m$i.rs; echo \"mod m$i;\" >> mods; done
         cat mods src/main.rs > main.rs; mv main.rs src/main.rs
         unset RUSTFLAGS CARGO_TARGET_DIR; cargo build --quiet --offline 2>/dev/null; cargo run --quiet --offline 2>/dev/null",
    );
    assert_eq!(output, "Hello, world!\n");
    let dir = host.remount("v");
    assert_eq!(shell(&dir, "hello/target/debug/hello"), "Hello, world!\n");
    host.umount("v");
    host.check("v");
}

/// The tarball of the Linux source that Debian's package installs.
fn linux_source() -> PathBuf {
    let dir = fs::read_dir("/usr/src").unwrap();
    let is_source = |name: &str| name.starts_with("linux-source-") && name.ends_with(".tar.xz");
    let mut found =
        dir.map(|e| e.unwrap().path()).filter(|p| is_source(p.file_name().unwrap().to_str().unwrap()));
    found.next().expect("the Linux source is in /usr/src: scripts/test installs it")
}

#[test]
fn a_large_source_tree_is_the_same_byte_for_byte_and_attribute_for_attribute() {
    let host = Host::new();
    let original = host.dir("original");
    shell(
        &original,
        &format!(
            "tar xJf {} --strip-components=1 --wildcards '*/drivers/*' '*/tools/*' '*/scripts/*'
             ln drivers/Makefile hard; ln -s hard soft; mkfifo pipe; mknod device c 1 3; touch -d '1970-01-02 03:04:05.678' old
             setfattr -n user.note -v text drivers/Kconfig; setfacl -m u:1000:rw,g:2000:r tools/Makefile
             setfacl -d -m u:1000:rwx scripts; chown 1000:2000 drivers/Kconfig; chmod 6751 scripts/setlocalversion
             truncate -s 100M sparse; echo end >> sparse",
            linux_source().display()
        ),
    );
    let files: usize = shell(&original, "find . | wc -l").trim().parse().unwrap();
    assert!(files >= 20_000, "{files} files");
    let dir = host.volume("v", &[]);
    shell(
        &dir,
        &format!(
            "tar --acls --xattrs -C {} -cSf - . | tar --acls --xattrs --xattrs-include='*' -xSf -",
            original.display()
        ),
    );
    let compare = |dir: &Path| {
        let from = format!("{}/", original.display());
        let found = succeed(
            Command::new("rsync")
                .args(["-aHAXc", "--delete", "--dry-run", "--itemize-changes", &from])
                .arg(format!("{}/", dir.display())),
        );
        assert_eq!(found, "", "rsync finds differences");
    };
    compare(&dir);
    let dir = host.remount("v");
    compare(&dir);
    assert!(fs::metadata(dir.join("sparse")).unwrap().blocks() < 100, "holes stay holes");
    host.check("v");
    // Within the volume, a copy of it all shares its blocks.
    let used = host.json(&["inspect", "v"])["used"].as_u64().unwrap();
    shell(&dir, "mkdir copy; cp -a --reflink=auto drivers copy/; diff -r drivers copy/drivers");
    assert!(host.json(&["inspect", "v"])["used"].as_u64().unwrap() > used);
    shell(&dir, "rm -rf drivers tools");
    shell(&dir, &format!("diff -r copy/drivers {}/drivers", original.display()));
    shell(&dir, "rm -rf ./*");
    wait_until("its space comes back", || host.json(&["inspect", "v"])["used"] == 0);
    host.umount("v");
    host.check("v");
}

#[test]
fn sqlite_in_wal_mode_survives_a_killed_writer_and_a_killed_server() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    shell(
        &dir,
        "sqlite3 t.db 'PRAGMA journal_mode=WAL; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b);'",
    );
    let insert = "import sqlite3, os\nc = sqlite3.connect('t.db', isolation_level=None, timeout=30)\n\
                  c.execute('PRAGMA synchronous=FULL')\n\
                  while True:\n  c.execute('BEGIN')\n  for i in range(20): c.execute('INSERT INTO t(b) VALUES (?)', (os.urandom(50).hex(),))\n  c.execute('COMMIT')\n";
    let mut last = 0;
    for round in 0..3 {
        let writers: Vec<_> = (0..2)
            .map(|_| Background::start(Command::new("python3").args(["-c", insert]).current_dir(&dir)))
            .collect();
        std::thread::sleep(Duration::from_millis(700));
        // On a busy machine they may only just have begun.
        let count = "sqlite3 -cmd '.timeout 30000' t.db 'SELECT count(*) FROM t'";
        wait_until("the writers write", || shell(&dir, count).trim().parse::<u64>().unwrap() > last);
        if round > 0 {
            host.kill_server("v");
        }
        drop(writers);
        if round > 0 {
            host.check("v");
            dir = host.mount("v", &[]);
        }
        let text = shell(&dir, "sqlite3 t.db 'PRAGMA integrity_check; SELECT count(*) FROM t;'");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("ok"), "{text}");
        let rows: u64 = lines.next().unwrap().parse().unwrap();
        assert!(rows > last && rows.is_multiple_of(20), "{rows} rows after {last}");
        last = rows;
    }
    host.umount("v");
    host.check("v");
}

/// PostgreSQL with its data on a volume.
struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    socket: PathBuf,
}

impl Postgres {
    fn new(dir: &Path, host: &Host) -> Self {
        let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .expect("PostgreSQL is installed")
            .map(|e| e.unwrap().path())
            .collect();
        versions.sort();
        let data = dir.join("pg");
        let socket = host.public_dir(&format!("socket-{}", dir.file_name().unwrap().to_str().unwrap()));
        shell(dir, "mkdir -p pg && chown postgres: pg && chmod 700 pg");
        succeed(Command::new("chown").arg("postgres:").arg(&socket));
        Self { bin: versions.pop().unwrap().join("bin"), data, socket }
    }

    /// Runs a program of PostgreSQL's as its user.
    fn command(&self, program: &str, args: &str) -> Command {
        let mut command = Command::new("su");
        let line = format!(
            "cd /; PGHOST={} PGUSER=postgres {}/{program} {args}",
            self.socket.display(),
            self.bin.display()
        );
        command.args(["postgres", "-s", "/bin/bash", "-c", &line]);
        command
    }

    fn run(&self, program: &str, args: &str) -> String {
        succeed(&mut self.command(program, args))
    }

    fn start(&self) {
        let options = format!("-k {} -h ''", self.socket.display());
        let log = self.socket.join("log");
        let args =
            format!("-D {} -w -t 120 -o \"{options}\" -l {} start", self.data.display(), log.display());
        let output = crate::support::run(&mut self.command("pg_ctl", &args));
        assert!(output.status.success(), "PostgreSQL does not start: {}", fs::read_to_string(log).unwrap());
    }

    fn stop(&self) {
        self.run("pg_ctl", &format!("-D {} -w -m fast stop", self.data.display()));
    }

    fn kill(&self) {
        let pid = self.socket.join(".s.PGSQL.5432.lock");
        let pid: i32 = fs::read_to_string(pid).unwrap().lines().next().unwrap().parse().unwrap();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        wait_until("PostgreSQL is gone", || !is_running(pid));
        // What it leaves behind names a process that may not have been reaped, and would be taken for running.
        for file in [self.socket.join(".s.PGSQL.5432.lock"), self.data.join("postmaster.pid")] {
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Whatever is left of it has its data directory in its command line.
        let _ = crate::support::run(Command::new("pkill").args([
            "-9",
            "-f",
            &format!("postgres -D {}", self.data.display()),
        ]));
    }
}

#[test]
fn postgresql_works_and_recovers() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "10G"]);
    let pg = Postgres::new(&dir, &host);
    pg.run("initdb", &format!("-D {} --data-checksums -A trust", pg.data.display()));
    pg.start();
    pg.run("pgbench", "-q -i -s 5 postgres");
    pg.run("psql", "-qc 'CREATE EXTENSION amcheck' postgres");
    pg.run("pgbench", "-c 4 -T 5 postgres");
    pg.run("pg_amcheck", "--heapallindexed postgres");
    let digest = || {
        pg.run(
            "psql",
            "-Atc 'SELECT md5(string_agg(t::text, chr(10) ORDER BY aid)) FROM pgbench_accounts t' postgres",
        )
    };
    let before = digest();
    pg.stop();
    host.check("v");
    host.remount("v");
    pg.start();
    assert_eq!(digest(), before);

    // The server killed under load: what PostgreSQL committed is there, and it recovers by itself.
    let load = Background::start(&mut pg.command("pgbench", "-c 4 -T 100 postgres"));
    std::thread::sleep(Duration::from_secs(4));
    host.kill_server("v");
    drop(load);
    host.check("v");
    host.mount("v", &[]);
    pg.kill();
    pg.start();
    pg.run("pg_amcheck", "--heapallindexed postgres");
    let sums = pg.run(
        "psql",
        "-Atc 'SELECT (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(abalance) FROM pgbench_accounts), \
         (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(abalance) FROM pgbench_accounts)' postgres",
    );
    assert_eq!(sums, "t|t\n", "every transaction is there as a whole or not at all");
    pg.stop();
    pg.run("pg_checksums", &format!("--check -D {}", pg.data.display()));
    host.umount("v");
    host.check("v");
}

#[test]
fn postgresql_under_load_is_cloned_and_the_clone_recovers() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let pg = Postgres::new(&dir, &host);
    pg.run("initdb", &format!("-D {} --data-checksums -A trust", pg.data.display()));
    pg.start();
    pg.run("pgbench", "-q -i -s 2 postgres");
    pg.run("psql", "-qc 'CREATE EXTENSION amcheck' postgres");
    let load = Background::start(&mut pg.command("pgbench", "-c 4 -T 100 postgres"));
    std::thread::sleep(Duration::from_secs(2));
    let done = || {
        pg.run("psql", "-Atc 'SELECT count(*) FROM pgbench_history' postgres").trim().parse::<u64>().unwrap()
    };
    for round in 0..2 {
        let before = done();
        host.ok(&["snapshot", "create", &format!("v@s{round}")]);
        let name = format!("clone{round}");
        host.ok(&["clone", &format!("v@s{round}"), &name]);
        let clone = Postgres::new(&host.mount(&name, &[]), &host);
        // It is a copy of the files of a server that runs.
        let _ = fs::remove_file(clone.data.join("postmaster.pid"));
        clone.start();
        clone.run("pg_amcheck", "--heapallindexed postgres");
        let sums = clone.run(
            "psql",
            "-Atc 'SELECT (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(abalance) FROM pgbench_accounts), \
             (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts), \
             (SELECT count(*) FROM pgbench_history)' postgres",
        );
        let (whole, count) = sums.trim().rsplit_once('|').unwrap();
        assert_eq!(whole, "t|t", "every transaction is there as a whole or not at all");
        assert!(count.parse::<u64>().unwrap() >= before, "{count} transactions of {before}");
        clone.stop();
        host.umount(&name);
        std::thread::sleep(Duration::from_secs(1));
    }
    drop(load);
    pg.stop();
    host.umount("v");
    host.check("v");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    let jobs = [
        "--name=randwrite --rw=randwrite --bs=4k --size=128M --ioengine=libaio --iodepth=16 --direct=1",
        "--name=randrw --rw=randrw --bs=8k --size=128M",
        "--name=odd --rw=randwrite --bsrange=512-70k --bs_unaligned --size=64M --ioengine=psync",
        "--name=sequential --rw=write --bs=1M --size=512M --ioengine=libaio --iodepth=4 --direct=1 --numjobs=2",
        "--name=mmap --rw=randwrite --bs=4k --size=64M --ioengine=mmap",
    ];
    for job in jobs {
        shell(
            &dir,
            &format!(
                "fio --output-format=terse --verify=crc32c --verify_fatal=1 --do_verify=1 {job} > /dev/null"
            ),
        );
    }
    for _ in 0..2 {
        for job in jobs.iter().filter(|job| !job.contains("randrw ")) {
            shell(
                &dir,
                &format!(
                    "fio --output-format=terse --verify=crc32c --verify_fatal=1 --verify_only=1 {job} > /dev/null"
                ),
            );
        }
        host.check("v");
        dir = host.remount("v");
    }
}

#[test]
fn the_benchmark_commands_of_the_guides_run() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    let script = "
        dd if=/dev/zero of=$D/test bs=1M count=100 oflag=direct
        dd if=/dev/zero of=$D/test.img bs=1M count=1000 oflag=direct
        dd if=$D/test.img of=/dev/null bs=1M iflag=direct
        fio --name=random-write --ioengine=libaio --rw=randwrite --bs=4k --size=1g --numjobs=4 --runtime=10 --time_based \
            --filename=$D/test";
    shell(&dir, &format!("D={}; {script}", dir.display()));
    assert_eq!(fs::metadata(dir.join("test.img")).unwrap().len(), 1000 << 20);
    host.check("v");
    let dir = host.remount("v");
    assert_eq!(shell(&dir, "cmp -n 1048576000 test.img /dev/zero && echo same"), "same\n");
}

#[test]
fn git_and_fio_under_a_killed_server() {
    let host = Host::new();
    let mut dir = host.volume("v", &[]);
    let repo = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b";
    shell(
        &dir,
        &format!(
            "{repo}; git init -q repo; cd repo; git config core.fsync all; echo 0 > f; git add f; git commit -qm 0"
        ),
    );
    for round in 0..3 {
        let git = Background::start(
            Command::new("bash")
                .args(["-c", &format!("{repo}; cd repo; for i in {{1..10000}}; do echo $i > f; git commit -qam $i || exit; done")])
                .current_dir(&dir),
        );
        let fio = Background::start(
            Command::new("fio")
                .args([
                    "--name=load",
                    "--rw=randrw",
                    "--bs=4k",
                    "--size=64M",
                    "--time_based",
                    "--runtime=60",
                    "--fsync=50",
                ])
                .current_dir(&dir),
        );
        std::thread::sleep(Duration::from_millis(1500 + 300 * round));
        host.kill_server("v");
        drop((git, fio));
        host.check("v");
        dir = host.mount("v", &[]);
        // A killed git leaves its lock behind, as on any file system.
        let count = shell(
            &dir.join("repo"),
            "rm -f .git/*.lock .git/refs/heads/*.lock; git fsck --full --strict >/dev/null 2>&1; git reset -q --hard; git log --oneline | wc -l",
        );
        assert!(count.trim().parse::<u32>().unwrap() > 1, "{count}");
    }
    host.umount("v");
    host.check("v");
}
