//! What opens an encrypted volume, and what does not.

use super::{host_with_key, volume};
use crate::disk::{Access, Disk, Survives};
use crate::model::harness::{keys_of, new_encrypted_disk};
use crate::support::{Host, pattern, run, succeed};
use larder::store::Header;
use larder::volume::unlock_keys;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::fs;
use std::process::Command;
use std::sync::Arc;

pub fn file(host: &Host, name: &str, bytes: &[u8]) -> String {
    let path = host.dir("keys").join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wrong_and_bad_secrets_are_one_clear_line() {
    let (host, key) = host_with_key();
    host.ok(&["create", "v", "--encrypt", "--key-file", &key]);
    let dir = host.dir("mnt").to_str().unwrap().to_owned();
    let other = file(&host, "other", &pattern(64, 3));
    let short = file(&host, "short", &[1; 31]);
    let long = file(&host, "long", &[1; 100_000]);
    let empty = file(&host, "empty", b"\nsecond line\n");
    let passphrase = file(&host, "passphrase", b"correct horse\n");
    for (args, says) in [
        (["--key-file", &other], "the key file does not open any of its key slots; `larder key list v`"),
        (["--key-file", &short], "too few"),
        (["--key-file", &long], "longer than 65536 bytes"),
        (
            ["--key-file", "/nowhere"],
            "cannot open volume \"v\": cannot read the key file /nowhere: No such file or directory",
        ),
        (["--passphrase-file", &empty], "empty"),
        (
            ["--passphrase-file", &passphrase],
            "it has no key slot for a passphrase; it has: key file; `larder key list v`",
        ),
        (["--passphrase-fd", "77"], "77"),
        (["--key-command", "exit 3"], "exit status: 3"),
        (["--key-command", "echo x"], "too few"),
    ] {
        for command in [&["mount", "v", &dir][..], &["check", "v"], &["inspect", "v"], &["df", "v"]] {
            let line = host.fails(13, &[command, &args].concat());
            assert!(line.contains(says), "{line}");
        }
    }
    host.fails(2, &["check", "v", "--key-file", &key, "--passphrase-file", &passphrase]);
    assert!(host.fails(13, &["check", "v"]).contains("--key-file"));
    for bad in [&short, &long] {
        host.fails(13, &["create", "w", "--encrypt", "--key-file", bad]);
    }
    host.fails(13, &["create", "w", "--encrypt", "--passphrase-file", &empty]);
    host.fails(13, &["create", "w", "--encrypt"]);
    assert!(!host.ok(&["ls"]).contains('w'));
    // Nothing was left running: the volume can be removed.
    host.ok(&["rm", "v"]);
}

#[test]
fn every_way_to_give_a_secret() {
    let (host, key) = host_with_key();
    let passphrase = file(&host, "passphrase", b"correct horse\n");
    host.ok(&["create", "v", "--encrypt", "--key-file", &key, "--passphrase-file", &passphrase]);
    let check = host.command(&["check", "v"]);
    let program = format!("{check:?}").replace('"', "");
    succeed(Command::new("bash").args(["-c", &format!("{program} --passphrase-fd 7 7< {passphrase}")]));
    succeed(Command::new("bash").args(["-c", &format!("echo correct horse | {program} --passphrase-fd 0")]));
    host.ok(&["check", "v", "--key-command", &format!("cat {key}")]);
    host.ok(&["check", "v", "--passphrase-file", &passphrase]);
    let credentials = host.dir("credentials");
    fs::copy(&key, credentials.join("larder.v.key")).unwrap();
    succeed(host.command(&["check", "v"]).env("CREDENTIALS_DIRECTORY", &credentials));
    fs::remove_file(credentials.join("larder.v.key")).unwrap();
    fs::copy(&passphrase, credentials.join("larder.v.passphrase")).unwrap();
    succeed(host.command(&["check", "v"]).env("CREDENTIALS_DIRECTORY", &credentials));
}

#[test]
fn a_server_does_not_inherit_what_the_secret_was_read_from() {
    let (host, _) = host_with_key();
    let passphrase = file(&host, "passphrase", b"correct horse\n");
    host.ok(&["create", "v", "--encrypt", "--passphrase-file", &passphrase]);
    let dir = host.make_mountpoint("v");
    let mount = host.command(&["mount", "v", dir.to_str().unwrap()]);
    let program = format!("{mount:?}").replace('"', "");
    succeed(Command::new("bash").args(["-c", &format!("{program} --passphrase-fd 7 7< {passphrase}")]));
    let server = host.server("v");
    for fd in fs::read_dir(format!("/proc/{server}/fd")).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap_or_default();
        assert!(!target.to_string_lossy().contains("passphrase"), "{}", target.display());
    }
    let memory = |file: &str| fs::read(format!("/proc/{server}/{file}")).unwrap();
    for file in ["cmdline", "environ"] {
        assert!(!memory(file).windows(5).any(|w| w == b"horse"), "{file}");
    }
    host.umount("v");
}

#[test]
fn a_family_shares_its_keys_and_says_so() {
    let (host, key) = host_with_key();
    volume(&host, &key);
    host.ok(&["clone", "v", "twin"]);
    for name in ["v", "twin"] {
        assert!(host.ok(&["key", "list", name]).contains("the keys of twin, v, and of their snapshots"));
        let listed = host.json(&["key", "list", name, "--json"]);
        assert_eq!(listed["volumes"], serde_json::json!(["twin", "v"]));
    }
    host.umount("v");
    let second = file(&host, "second", &pattern(64, 8));
    host.ok(&["key", "rotate", "twin", "--key-file", &key, "--new-key-file", &second]);
    host.fails(13, &["check", "v", "--key-file", &key]);
    host.ok(&["check", "v", "--key-file", &second]);
}

#[test]
fn slots_come_and_go_while_the_volume_is_mounted() {
    let (host, key) = host_with_key();
    let dir = volume(&host, &key);
    fs::write(dir.join("f"), "data").unwrap();
    let second = file(&host, "second", &pattern(64, 8));
    let third = file(&host, "third", &pattern(64, 9));
    assert!(host.ok(&["key", "add", "v", "--key-file", &key, "--new-key-file", &second]).contains("slot 1"));
    let printed = host.ok(&["key", "add", "v", "--key-file", &second, "--recovery-key"]);
    let recovery = file(&host, "recovery", printed.trim_end().rsplit(' ').next().unwrap().as_bytes());
    let kinds: Vec<String> = host.json(&["key", "list", "v", "--json"])["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["key-file", "key-file", "recovery-key"]);
    // Not with its own secret, nor with a wrong one.
    host.fails(13, &["key", "rm", "v", "0", "--key-file", &key]);
    host.fails(13, &["key", "rm", "v", "0", "--key-file", &third]);
    host.fails(2, &["key", "rm", "v", "9", "--key-file", &second]);
    host.ok(&["key", "rm", "v", "0", "--key-file", &second]);
    host.ok(&["key", "rotate", "v", "--key-file", &second, "--new-key-file", &third]);
    host.fails(13, &["key", "rotate", "v", "--key-file", &second, "--new-key-file", &key]);
    host.umount("v");
    for old in [&key, &second] {
        host.fails(13, &["check", "v", "--key-file", old]);
    }
    host.ok(&["check", "v", "--passphrase-file", &recovery]);
    host.ok(&["key", "rm", "v", "2", "--key-file", &third]);
    host.fails(13, &["check", "v", "--passphrase-file", &recovery]);
    let line = host.fails(2, &["key", "rm", "v", "1", "--key-file", &third]);
    assert!(line.contains("its only one"), "{line}");
    let dir = host.mount("v", &["--key-file", &third]);
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "data");
    host.ok(&["create", "plain"]);
    host.fails(2, &["key", "list", "plain"]);
}

#[test]
fn a_hostile_header_costs_nothing() {
    let (host, key) = host_with_key();
    let passphrase = file(&host, "passphrase", b"correct horse\n");
    host.ok(&["create", "v", "--encrypt", "--passphrase-file", &passphrase]);
    let path = host.store("v").join("header.json");
    let text = fs::read_to_string(&path).unwrap();
    let memory = host.json(&["key", "list", "v", "--json"])["slots"][0]["memory_kib"].as_u64().unwrap();
    assert!((64 << 10..=256 << 10).contains(&memory), "{memory} KiB");
    for (from, to, says) in [
        ("\"argon2id\"".to_owned(), "\"argon3\"".to_owned(), "unknown key derivation"),
        (
            format!("\"memory_kib\": {memory}"),
            "\"memory_kib\": 4000000000".into(),
            "no version of larder writes",
        ),
        (format!("\"memory_kib\": {memory}"), "\"memory_kib\": 0".into(), "impossible"),
        ("\"salt\": \"".into(), "\"salt\": \"zz".into(), "damaged"),
        ("aes-256-gcm".into(), "rot13".into(), "unknown cipher"),
    ] {
        assert!(text.contains(&from), "{from}");
        fs::write(&path, with_checksum(&text.replacen(&from, &to, 1))).unwrap();
        let line = host.fails(9, &["check", "v", "--passphrase-file", &passphrase]);
        assert!(line.contains(says), "{line}");
    }
    // Damage that its writer did not care to hide, and none at all.
    fs::write(&path, text.replacen("argon2id", "argon3", 1)).unwrap();
    assert!(host.fails(9, &["check", "v", "--key-file", &key]).contains("checksum"));
    fs::write(&path, with_checksum(&text)).unwrap();
    host.ok(&["check", "v", "--passphrase-file", &passphrase]);
    let wrong = file(&host, "wrong", b"wrong horse\n");
    assert!(
        host.fails(13, &["check", "v", "--passphrase-file", &wrong])
            .contains("the passphrase does not open any of its key slots")
    );
    assert_eq!(run(&mut host.command(&["check", "v"])).status.code(), Some(13));
}

/// The header with the checksum that belongs to it: as an enemy writes it.
pub fn with_checksum(text: &str) -> String {
    // The checksum is over the compact JSON of all other fields, in their order.
    let body = &text[..text.rfind(",\n  \"checksum\"").unwrap()];
    let mut compact = String::new();
    let mut quoted = false;
    for c in body.chars() {
        quoted ^= c == '"';
        if quoted || !c.is_whitespace() {
            compact.push(c);
        }
    }
    let sum = xxhash_rust::xxh3::xxh3_128(format!("{compact}}}").as_bytes());
    format!("{body},\n  \"checksum\": \"{sum:032x}\"\n}}\n")
}

#[test]
fn there_is_a_whole_header_whenever_the_power_goes() {
    let disk = new_encrypted_disk(None, None);
    let old = Header::read(&disk).unwrap();
    let new =
        Header { keyring: Header::read(&new_encrypted_disk(None, None)).unwrap().keyring, ..old.clone() };
    let cuts: Arc<Mutex<Vec<Disk>>> = Arc::default();
    let (kept, rng) = (Arc::clone(&cuts), Mutex::new(StdRng::seed_from_u64(5)));
    disk.watch(move |disk, access: Access, _| {
        let _ = access;
        for survives in [Survives::Nothing, Survives::Everything, Survives::Some, Survives::Some] {
            kept.lock().push(disk.after_power_loss(survives, &mut rng.lock()));
        }
    });
    new.replace(&disk).unwrap();
    let cuts = std::mem::take(&mut *cuts.lock());
    assert!(cuts.len() >= 16);
    for cut in cuts {
        let found = Header::read(&cut).unwrap();
        assert!(found == old || found == new);
    }
    let mut rng = StdRng::seed_from_u64(6);
    assert_eq!(Header::read(&disk.after_power_loss(Survives::Nothing, &mut rng)).unwrap(), new);
    // Slots of another store are no slots of this one.
    assert!(unlock_keys(&disk, &crate::model::harness::secret()).is_err() && keys_of(&disk).is_err());
}

/// Runs a command on a terminal and types lines, one for each question; returns what is on the terminal and the status.
fn on_terminal(host: &Host, args: &[&str], lines: &[&str]) -> (String, i32) {
    let script = "
import os, pty, sys, time
answers = sys.argv[1].split('|')
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
seen = b''
while True:
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    if data.endswith(b': ') and answers:
        # As slow as a human: the echo is turned off after the question.
        time.sleep(0.2)
        os.write(fd, answers.pop(0).encode() + b'\\n')
print(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let command = host.command(args);
    let mut python = Command::new("python3");
    python.args(["-c", script, &lines.join("|")]).arg(command.get_program()).args(command.get_args());
    let output = run(&mut python);
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[test]
fn a_terminal_is_asked_twice_when_making_and_once_when_opening() {
    let host = Host::plain();
    let (text, status) = on_terminal(&host, &["create", "v", "--encrypt"], &["one", "other"]);
    assert!(status == 13 && text.contains("differ"), "{text}");
    let (text, status) = on_terminal(&host, &["create", "v", "--encrypt"], &["", ""]);
    assert!(status == 13 && text.contains("empty"), "{text}");
    let (text, status) = on_terminal(&host, &["create", "v", "--encrypt"], &["horse", "horse"]);
    assert!(status == 0 && !text.contains("horse"), "{text}");
    let (text, status) = on_terminal(&host, &["check", "v"], &["horse"]);
    assert!(status == 0 && text.matches("Passphrase").count() == 1, "{text}");
    let (text, status) = on_terminal(&host, &["check", "v"], &["cow"]);
    assert!(status == 13 && text.contains("does not open any of its key slots"), "{text}");
    let (text, status) = on_terminal(&host, &["key", "rotate", "v"], &["horse", "cow", "cow"]);
    assert!(status == 0, "{text}");
    assert_eq!(on_terminal(&host, &["inspect", "v"], &["cow"]).1, 0);
    assert_eq!(on_terminal(&host, &["inspect", "v"], &["horse"]).1, 13);
}
