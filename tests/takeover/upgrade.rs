//! `larder upgrade`: another program takes over.

use crate::support::{Host, larder, run, shell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

#[test]
fn programs_notice_nothing_of_upgrades_and_downgrades() {
    let host = Host::new();
    let dir = host.volume("v", &["--size", "1G"]);
    // Another version, as far as can be told: a copy, which is replaced on disk while it runs.
    let (other, dir_of_program) = (host.dir("program").join("larder"), host.dir("program"));
    fs::copy(larder(), &other).unwrap();
    let mut fio = Command::new("fio")
        .args(["--name=x", "--rw=randwrite", "--bs=4k", "--size=64M", "--rate_iops=3000", "--verify=crc32c"])
        .args(["--output-format=terse", "--output=/dev/null", "--fsync=100"])
        .current_dir(&dir)
        .spawn()
        .unwrap();
    let mut open = fs::File::create(dir.join("open")).unwrap();
    for i in 0..20 {
        let before = host.server("v");
        let path = if i % 2 == 0 { other.as_os_str() } else { larder().as_ref() };
        let said = host.ok(&["upgrade".as_ref(), "v".as_ref(), "--program".as_ref(), path]);
        assert!(said.contains("v: version"), "{said}");
        assert_ne!(host.server("v"), before);
        writeln!(open, "{i}").unwrap();
        if i == 4 {
            // It does not need its file any more.
            fs::remove_file(&other).unwrap();
            shell(&dir_of_program, &format!("kill -9 {}", host.server("v")));
            fs::copy(larder(), &other).unwrap();
        }
    }
    assert!(fio.wait().unwrap().success());
    assert_eq!(fs::read_to_string(dir.join("open")).unwrap().lines().count(), 20);
    drop(open);
    assert!(host.json(&["inspect", "v"])["server"]["takeovers"].as_u64().unwrap() >= 20);
    host.umount("v");
    host.check("v");
}

/// The command said that the server had gone away, while another one was taking over already; or it waited for ever, because
/// that one was asked before it had told its holder that it serves.
#[test]
fn a_server_that_dies_before_it_can_be_upgraded_does_not_stand_in_the_way() {
    let host = Host::new();
    host.volume("v", &[]);
    for round in 0..40 {
        let server = Pid::from_raw(host.server("v"));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_micros(round * 400));
                // Later ones find that it was replaced.
                let _ = kill(server, Signal::SIGKILL);
            });
            host.ok(&["upgrade", "v"]);
        });
    }
    host.umount("v");
    host.check("v");
}

#[test]
fn what_cannot_take_over_is_refused_and_everything_goes_on() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    let before = host.server("v");
    let script = |name: &str, text: &str| {
        let path = host.dir("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        assert!(run(Command::new("chmod").arg("+x").arg(&path)).status.success());
        path
    };
    let path = script("nothing", "exit 0");
    let older = script("older", "echo '{\"version\": \"0.0.1\", \"handover\": [0]}'");
    // Who would refuse the store is not tried.
    let silent = script("silent", "echo '{\"version\": \"0.0.2\", \"handover\": [1]}'");
    let known = "[\"encryption\", \"metadata-limits\", \"reserved-runs\", \"inode-flags\"]";
    let lacking = format!("{{\"version\": \"0.0.3\", \"handover\": [1], \"features\": {known}}}");
    let lacking = script("lacking", &format!("echo '{lacking}'"));
    for (program, says) in [
        (std::path::Path::new("/bin/true"), "not larder"),
        (path.as_path(), "not larder"),
        (older.as_path(), "(version 0.0.1) cannot take over"),
        (silent.as_path(), "(version 0.0.2) cannot take over: the store has the feature \"metadata-limits\""),
        (lacking.as_path(), "(version 0.0.3) cannot take over: the store has the feature \"unnamed-files\""),
    ] {
        let refused =
            host.fails(1, &["upgrade".as_ref(), "v".as_ref(), "--program".as_ref(), program.as_os_str()]);
        assert!(refused.contains(says), "{refused}");
        assert_eq!(host.server("v"), before);
    }
    assert!(host.fails(2, &["upgrade", "v", "--program", "/nonexistent"]).contains("/nonexistent"));
    // One that offers to, and then does not serve: the version before goes on.
    let offer = run(Command::new(larder()).args(["serve", "--offers", &"0".repeat(32)]));
    let liar =
        script("liar", &format!("echo '{}'", String::from_utf8(offer.stdout).unwrap().replace('\n', "")));
    let failed = host.fails(1, &["upgrade".as_ref(), "v".as_ref(), "--program".as_ref(), liar.as_os_str()]);
    assert!(failed.contains("could not serve"), "{failed}");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    assert_ne!(host.server("v"), before);
    host.umount("v");
    assert_eq!(host.ok(&["upgrade"]), "nothing is mounted\n");
    host.check("v");
}

/// It gave the store what the version before it lacks, and was killed before it served: only it can go on.
#[test]
fn a_version_that_has_changed_the_store_is_tried_again() {
    let host = Host::new();
    let dir = host.volume("v", &[]);
    fs::write(dir.join("f"), "data").unwrap();
    let header = host.store("v").join("header.json");
    let offer = run(Command::new(larder()).args(["serve", "--offers", &"0".repeat(32)]));
    let offer = String::from_utf8(offer.stdout).unwrap().replace('\n', "");
    let offer = offer.replace("\"unnamed-files\"", "\"unnamed-files\", \"later\"");
    let program = host.dir("programs").join("later");
    // The first time, the header gets a feature more.
    fs::write(
        &program,
        format!(
            "#!/bin/sh
            case \"$*\" in *--offers*) echo '{offer}'; exit;; esac
            if [ -e {header}.good ]; then mv {header}.good {header}; exec {larder} \"$@\"; fi
            cp {header} {header}.good
            sed -i 's/\"unnamed-files\"/\"unnamed-files\", \"later\"/' {header}
            kill -9 $$\n",
            header = header.display(),
            larder = larder()
        ),
    )
    .unwrap();
    assert!(run(Command::new("chmod").arg("+x").arg(&program)).status.success());
    let before = host.server("v");
    let _ = run(&mut host.command(&[
        "upgrade".as_ref(),
        "v".as_ref(),
        "--program".as_ref(),
        program.as_os_str(),
    ]));
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    assert_ne!(host.server("v"), before);
    let log = fs::read_to_string(host.json(&["inspect", "v"])["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("because the store has the feature \"later\" now"), "{log}");
    host.umount("v");
    host.check("v");
}
