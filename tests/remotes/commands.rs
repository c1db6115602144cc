//! `larder remote`.

use super::sealed::{KEY_FILE, STORE, keyring, sealer};
use super::shipped::{ship, ship_with};
use crate::support::{Host, larder, run, scratch};
use larder::backing::OsDir;
use larder::crypto::Keys;
use larder::remote::{BootClock, Directory, Objects, put_header};
use larder::store::Header;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

fn directory(path: &std::path::Path) -> Arc<dyn Objects> {
    Arc::new(Directory::new(path))
}

#[test]
fn the_stores_of_a_directory_are_listed_and_checked() {
    let (host, tmp, own) = (Host::new(), scratch(), scratch());
    let url = |name: &str| format!("file://{}/{name}", tmp.path().display());
    let (_, parts) = ship(&directory(&tmp.path().join("db")), &Keys::Plain, &BootClock);
    let (keyring, keys) = keyring();
    let encrypted = directory(&tmp.path().join("secret"));
    let header = Header::new(STORE, 5, Some(keyring));
    header.create(&OsDir::new(own.path())).unwrap();
    let json_file = fs::read(own.path().join("header.json")).unwrap();
    let header = put_header(&*encrypted, &sealer(STORE, &keys, &*encrypted), 1, &json_file).unwrap();
    ship_with(&encrypted, &keys, header, &BootClock);
    fs::create_dir(tmp.path().join("something else")).unwrap();
    // Right below, and at the URL itself.
    let listed = host.json(&["remote", "ls", url("").trim_end_matches('/'), "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(
        (&listed[0]["url"], &listed[0]["store"], &listed[0]["newest"]),
        (&json!(url("db")), &json!(STORE.to_string()), &json!(4))
    );
    assert_eq!((&listed[0]["owner"]["host"], &listed[0]["encrypted"]), (&json!("a"), &json!(false)));
    assert_eq!((&listed[1]["owner"], &listed[1]["encrypted"]), (&Value::Null, &json!(true)));
    assert!(listed[0]["last_life"].is_string() && listed[1]["last_life"].is_string());
    assert_eq!(host.json(&["remote", "ls", &url("db"), "--json"])[0], listed[0]);
    assert!(host.ok(&["remote", "ls", &url("db")]).contains("a (lease=none)"));
    // A check, with and without the secret.
    let clean = host.json(&["remote", "check", &url("db"), "--read-data", "--json"]);
    assert_eq!(
        (&clean["clean"], &clean["records"], &clean["blocks_read"]),
        (&json!(true), &json!(2), &json!(10))
    );
    let key_file = own.path().join("key");
    fs::write(&key_file, KEY_FILE).unwrap();
    let key = key_file.to_str().unwrap();
    assert!(host.ok(&["remote", "check", &url("secret"), "--key-file", key]).contains("complete; 2 records"));
    assert!(host.fails(13, &["remote", "check", &url("secret")]).contains("encrypted"));
    assert!(host.fails(13, &["remote", "check", &url("db"), "--key-file", key]).contains("not encrypted"));
    fs::write(&key_file, [2; 32]).unwrap();
    host.fails(13, &["remote", "check", &url("secret"), "--key-file", key]);
    assert!(host.fails(3, &["remote", "check", &url("something else")]).contains("remote ls"));
    assert!(host.fails(3, &["remote", "ls", &url("none")]).contains("no such directory"));
    // What is missing is named.
    let part = tmp.path().join("db").join(larder::remote::names::part(&parts[0]));
    fs::remove_file(&part).unwrap();
    let output = run(Command::new(larder()).args(["remote", "check", &url("db")]));
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8(output.stdout).unwrap().contains("data/0000000000000001/"));
}

#[test]
fn remotes_have_names_and_what_is_wrong_with_them_has_no_secret_in_it() {
    let (tmp, own) = (scratch(), scratch());
    ship(&directory(&tmp.path().join("Db")), &Keys::Plain, &BootClock);
    let file = own.path().join("remotes.toml");
    let with = |text: &str, mode, args: &[&str]| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let output =
            run(Command::new(larder()).args(args).env("LARDER_REMOTES", &file).env("HOME", own.path()));
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let named = format!("[offsite]\nurl = \"file://{}\"\n", tmp.path().display());
    let (code, said) = with(&named, 0o644, &["remote", "ls", "offsite"]);
    assert!(code == 0 && said.contains("/Db") && said.contains(&STORE.to_string()), "{said}");
    let (code, said) = with(&named, 0o644, &["remote", "check", "offsite/Db", "--read-data"]);
    assert!(code == 0 && said.contains("clean; 2 records"), "{said}");
    let (code, said) = with(&named, 0o644, &["remote", "ls", "ofsite"]);
    assert!(code == 2 && said.contains("did you mean \"offsite\"?"), "{said}");
    let secret = "[s3]\nurl = \"s3://bucket/x\"\naccess-key-id = \"id\"\nsecret-access-key = \"hunter2\"\nendpoint = \"http://127.0.0.1:1\"\n";
    let (code, said) = with(secret, 0o644, &["remote", "ls", "s3"]);
    assert!(code == 2 && said.contains("chmod 600") && !said.contains("hunter2"), "{said}");
    let (code, said) = with(&format!("{secret}regoin = \"x\"\n"), 0o600, &["remote", "ls", "s3"]);
    assert!(code == 2 && said.contains("line 6: the key \"regoin\"") && !said.contains("hunter2"), "{said}");
    let (code, said) = with("", 0o600, &["remote", "ls", "s3://key:hunter2@bucket/x"]);
    assert!(code == 2 && !said.contains("hunter2"), "{said}");
    let (code, said) = with("", 0o600, &["remote", "ls", "s3://bucket/x"]);
    assert!(code == 1 && said.contains("no credentials") && said.contains("remotes.toml"), "{said}");
}

/// The commands on an object store that takes `test` and `testtest`.
pub fn on_an_object_store(endpoint: &str, url: &str, objects: &Arc<dyn Objects>) {
    ship(objects, &Keys::Plain, &BootClock);
    let larder_with = |args: &[&str], secret: &str| {
        let mut command = Command::new(larder());
        command
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_ENDPOINT_URL", endpoint);
        let output = run(command.args(args));
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let (code, said) = larder_with(&["remote", "ls", url], "testtest");
    assert!(code == 0 && said.contains(&STORE.to_string()), "{said}");
    let (code, said) = larder_with(&["remote", "check", url, "--read-data"], "testtest");
    assert!(code == 0 && said.contains("clean; 2 records"), "{said}");
    let (code, said) = larder_with(&["remote", "check", url], "hunter2");
    assert!(code == 7 && said.contains("credentials") && !said.contains("hunter2"), "{said}");
}
