//! The packages: what `scripts/package` and `scripts/managed-plugin` build from the program under test.

use crate::support::{Host, larder, run, scratch, shell, succeed};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `scripts/package` with the program under test; returns what it has made.
fn make(options: &[&str], dir: &Path) -> Vec<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    succeed(Command::new(project().join("scripts/package")).args(options).arg(dir).env("PROGRAM", larder()));
    let mut built: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    built.sort();
    built
}

/// The `.deb`, and that of its debug symbols, built once for all tests.
fn packages() -> &'static [PathBuf] {
    static PACKAGES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PACKAGES.get_or_init(|| make(&[], &Path::new(env!("CARGO_TARGET_TMPDIR")).join("package")))
}

/// The `.deb`.
pub fn package() -> &'static Path {
    let is_it = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("larder_");
    packages().iter().find(is_it).expect("a package is built")
}

/// The RPM and the archive, built once for all tests.
pub fn others() -> &'static [PathBuf; 2] {
    static OTHERS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let build = |kind| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("package{kind}"));
        let [package] = make(&[kind], &dir).try_into().unwrap();
        package
    };
    OTHERS.get_or_init(|| ["--rpm", "--tarball"].map(build))
}

#[test]
fn the_package_has_everything_in_debians_places() {
    let tmp = scratch();
    let root = tmp.path().join("root");
    succeed(Command::new("dpkg-deb").arg("-x").arg(package()).arg(&root));
    for file in [
        "usr/bin/larder",
        "usr/libexec/larder/larder-server",
        "usr/lib/systemd/system/larder-plugin.service",
        "usr/lib/systemd/system/larder-plugin.socket",
        "usr/lib/systemd/system/larder@.service",
        "usr/lib/systemd/system/docker.service.d/50-larder.conf",
        "usr/lib/systemd/system/podman-restart.service.d/50-larder.conf",
        "usr/lib/systemd/system/larder-scrub.service",
        "usr/lib/systemd/system/larder-scrub.timer",
        "usr/share/man/man1/larder-scrub.1.gz",
        "usr/lib/systemd/system/larder-trash.service",
        "usr/lib/systemd/system/larder-trash.timer",
        "usr/lib/systemd/user/larder-plugin.service",
        "usr/lib/systemd/user/larder@.service",
        "usr/share/man/man1/larder.1.gz",
        "usr/share/man/man1/larder-snapshot-create.1.gz",
        "usr/share/man/man8/larder-plugin.8.gz",
        "usr/share/man/man8/mount.larder.8.gz",
        "usr/share/doc/larder/copyright",
        "usr/share/doc/larder/changelog.gz",
        "usr/share/doc/larder/libraries.gz",
        "usr/share/bash-completion/completions/larder",
        "usr/share/zsh/vendor-completions/_larder",
        "usr/share/fish/vendor_completions.d/larder.fish",
        "usr/share/doc/larder/examples/compose.yaml",
        "usr/share/doc/larder/examples/quadlet/db.container",
        "usr/share/doc/larder/containers.md",
    ] {
        let file = root.join(file);
        let meta = fs::metadata(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mode = meta.permissions().mode() & 0o7777;
        let is_program = ["bin/larder", "larder-server"].iter().any(|program| file.ends_with(program));
        assert_eq!(mode, if is_program { 0o755 } else { 0o644 }, "{}", file.display());
    }
    for helper in ["mount.larder", "mount.fuse.larder", "umount.larder", "umount.fuse.larder"] {
        let link = fs::read_link(root.join("usr/sbin").join(helper)).unwrap();
        assert_eq!(link, Path::new("../bin/larder"));
    }
    let generator = fs::read_link(root.join("usr/lib/systemd/system-generators/larder-generator")).unwrap();
    assert_eq!(generator, Path::new("../../../bin/larder"));
    let libraries = shell(&root, "zcat usr/share/doc/larder/libraries.gz");
    assert!(libraries.contains("\nrusqlite ") && !libraries.contains("\nproptest "), "{libraries}");
    // Nothing of the machine it was built on.
    let text = shell(
        &root,
        "grep -rlI --exclude=larder --exclude=larder-server -e /usr/local/bin -e \"$PWD\" . || true",
    );
    assert_eq!(text, "");
    let control = succeed(Command::new("dpkg-deb").arg("-f").arg(package()));
    assert!(control.contains("\nDepends: ") && control.contains("libc6 (>="), "{control}");
    assert!(!control.contains('@'.to_string().repeat(2).as_str()) && control.contains("Package: larder\n"));
}

#[test]
fn the_rpm_has_what_the_package_has() {
    let lines = |text: String, of_debian: &[&str]| {
        let paths = text.lines().map(|line| line.trim_end_matches('/').to_owned());
        let paths = paths.filter(|path| !of_debian.iter().any(|part| path.contains(part)));
        paths
            .map(|path| path.replace("zsh/vendor-completions", "zsh/site-functions"))
            .collect::<BTreeSet<_>>()
    };
    let tmp = scratch();
    succeed(Command::new("dpkg-deb").arg("-x").arg(package()).arg(tmp.path()));
    let of_package = lines(
        shell(tmp.path(), "find . -not -type d -printf '/%P\\n'"),
        &["/lintian/", "/doc/larder/copyright", "/doc/larder/changelog", "/doc/larder/CHANGELOG"],
    );
    let rpm = &others()[0];
    let listed =
        succeed(Command::new("rpm").args(["-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\\n]"]).arg(rpm));
    let files = listed.lines().filter(|line| !line.starts_with('d'));
    let files = files.map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect();
    assert_eq!(lines(files, &["/doc/larder/CHANGELOG"]), of_package);
    assert!(
        listed.contains("drwx------ /etc/larder\n") && listed.contains("-rwxr-xr-x /usr/bin/larder\n"),
        "{listed}"
    );
    let requires = succeed(Command::new("rpm").args(["-qpR"]).arg(rpm));
    assert!(requires.contains("libc.so.6"), "{requires}");
}

#[test]
fn the_changelogs_are_of_this_version() {
    let tmp = scratch();
    succeed(Command::new("dpkg-deb").arg("-x").arg(package()).arg(tmp.path()));
    let version = env!("CARGO_PKG_VERSION");
    let doc = tmp.path().join("usr/share/doc/larder");
    let parsed = shell(&doc, "zcat changelog.gz > changes; dpkg-parsechangelog -l changes; rm changes");
    assert!(
        parsed.contains(&format!("\nVersion: {version}\n")) && parsed.contains("CHANGELOG.md.gz"),
        "{parsed}"
    );
    let changes = fs::read_to_string(project().join("CHANGELOG.md")).unwrap();
    let staged = shell(&doc, "zcat CHANGELOG.md.gz");
    // Links lead elsewhere there.
    assert_eq!(staged.trim_end().lines().count(), changes.trim_end().lines().count());
}

/// The program that tests are built with may have none: here, it has.
#[test]
fn debug_symbols_are_a_package_of_their_own() {
    let tmp = scratch();
    let dir = tmp.path();
    let built = Path::new(larder()).parent().unwrap();
    shell(
        dir,
        &format!(
            "mkdir program; head -c 1000 /dev/urandom > info
             for name in larder larder-server; do
                 objcopy --remove-section .debug_info --add-section .debug_info=info {}/$name program/$name
             done",
            built.display()
        ),
    );
    succeed(
        Command::new(project().join("scripts/package"))
            .arg(dir.join("out"))
            .env("PROGRAM", dir.join("program/larder")),
    );
    let symbols = shell(dir, "dpkg-deb -f out/larder-dbgsym_*.deb");
    let version = env!("CARGO_PKG_VERSION");
    assert!(symbols.contains(&format!("\nDepends: larder (= {version})\n")), "{symbols}");
    let of =
        |program: &str| shell(dir, &format!("readelf -n program/{program} | sed -n 's/.*Build ID: //p'"));
    for id in [of("larder"), of("larder-server")] {
        let id = id.trim();
        assert!(id.len() > 8 && symbols.contains(id), "{id}: {symbols}");
        let file = format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        let listed = shell(dir, "dpkg-deb -c out/larder-dbgsym_*.deb");
        assert!(listed.contains(&file), "{file}: {listed}");
    }
    // What everybody installs has none, and says to which they belong. (`.debug_gdb_scripts` is loaded with the program, and no symbols.)
    shell(
        dir,
        "dpkg-deb -x out/larder_*.deb tree
         for program in tree/usr/bin/larder tree/usr/libexec/larder/larder-server; do
             if readelf -S --wide $program | grep -v '\\.debug_gdb_scripts' | grep '\\.debug_\\|\\.symtab'; then exit 1; fi
             readelf -n $program | grep 'Build ID'
         done",
    );
}

#[test]
fn debians_rules_are_kept() {
    let output = run(Command::new("lintian")
        .args(["--fail-on", "error,warning", "--tag-display-limit", "0", "--allow-root"])
        // A package of debug symbols has no overrides, and the authors no public address yet.
        .args(["--suppress-tags", "bogus-mail-host"])
        .args(packages()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_is_one_to_all_who_read_manuals() {
    let tmp = scratch();
    let dir = tmp.path();
    succeed(Command::new(larder()).arg("man").arg(dir));
    let pages = shell(dir, "ls").lines().count();
    assert!(pages > 20, "{pages} pages");
    // STYLE: what only concerns pages in the base system of BSDs.
    assert_eq!(shell(dir, "mandoc -T lint -W warning *.[18] || true"), "");
    shell(dir, "for page in *.[18]; do
                    said=$(LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -l $page 2>&1 >/dev/null); [ -z \"$said\" ] || { echo \"$page: $said\"; exit 1; }
                done");
    let page = shell(dir, "MANWIDTH=100 man -l larder-mount.1");
    for part in [
        "SYNOPSIS",
        "--cache-size",
        "commit=SECONDS",
        "EXIT STATUS",
        "LARDER_ROOT",
        "/etc/larder/larder.toml",
        "larder mount db /mnt/db",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}

#[test]
fn an_archive_installs_where_there_is_no_rust() {
    let tmp = scratch();
    let installed = tmp.path().join("installed");
    shell(tmp.path(), &format!("tar xzf {}", others()[1].display()));
    let script = format!(
        "cd larder-*-linux && env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DESTDIR={} ./install",
        installed.display()
    );
    shell(tmp.path(), &script);
    shell(&installed, "usr/local/bin/larder --version; grep -q /usr/local/bin/larder usr/local/lib/systemd/system/larder@.service
                       ls usr/local/share/man/man1/larder.1 usr/local/share/man/man8/mount.larder.8 sbin/mount.larder");
    shell(tmp.path(), &format!("{script} --uninstall"));
    assert_eq!(shell(&installed, "find . -not -type d"), "");
}

#[test]
fn systemd_accepts_the_units() {
    let tmp = scratch();
    let root = tmp.path();
    succeed(Command::new("dpkg-deb").arg("-x").arg(package()).arg(root));
    // It also checks that what the units run is there.
    shell(
        root,
        "mkdir -p etc bin sbin; cp /usr/bin/true sbin/modprobe
         cp /usr/bin/true bin/sh; cp -a --parents /usr/lib/systemd/system/{*.target,modprobe@.service} . ",
    );
    let units = [
        "larder-plugin.socket",
        "larder-plugin.service",
        "larder@db.service",
        "larder-scrub.timer",
        "larder-scrub.service",
        "larder-trash.timer",
        "larder-trash.service",
    ];
    let output = run(Command::new("systemd-analyze")
        .arg(format!("--root={}", root.display()))
        .args(["verify", "--man=no", "--recursive-errors=yes"])
        .args(units));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("larder"), "{}: {text}", output.status);
}

#[test]
fn what_is_installed_is_uninstalled() {
    let tmp = scratch();
    let install = |args: &[&str]| {
        succeed(
            Command::new(project().join("scripts/install"))
                .args(args)
                .env("PROGRAM", larder())
                .env("DESTDIR", tmp.path()),
        )
    };
    install(&[]);
    let unit = tmp.path().join("usr/local/lib/systemd/system/larder-plugin.service");
    assert!(fs::read_to_string(unit).unwrap().contains("ExecStart=/usr/local/bin/larder plugin"));
    install(&["--uninstall"]);
    assert_eq!(shell(tmp.path(), "find . -not -type d"), "");
}

#[test]
fn the_examples_are_what_their_readers_accept() {
    let examples = project().join("packaging/examples");
    succeed(Command::new("docker-compose").arg("-f").arg(examples.join("compose.yaml")).arg("config"));
    let load = "import sys, yaml; print([d['kind'] for d in yaml.safe_load_all(open(sys.argv[1]))])";
    let kinds = succeed(Command::new("python3").args(["-c", load]).arg(examples.join("kubernetes.yaml")));
    assert_eq!(kinds, "['PersistentVolume', 'PersistentVolumeClaim', 'Pod']\n");
    // `-f`: everything but the mount itself.
    let host = Host::new();
    let fstab = host.dir("etc").join("fstab");
    let lines = fs::read_to_string(examples.join("fstab")).unwrap().replace("noauto,", "");
    fs::write(&fstab, lines).unwrap();
    let output = host.with_helpers(&format!("mount -f -v -a -T {} | grep -c successfully", fstab.display()));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n");
}
