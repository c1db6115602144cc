//! Against a real Ceph with its S3 gateway (`scripts/ceph`): what `object_store` and the gateway make of our requests.

use super::suite;
use crate::support::{run, succeed};
use larder::config::{CredentialSource, Hidden, RemoteSettings, Remotes};
use larder::remote::{Address, BootClock, Clock, Objects, Trouble, connect, with_clouds};
use std::cell::Cell;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A Ceph, until it is dropped.
struct Ceph {
    dir: TempDir,
    port: u16,
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ceph"))
}

/// Four ports in a row that nobody has.
fn free_ports() -> u16 {
    (0..)
        .map(|i| 20_000 + (std::process::id() as u16 % 1000) * 8 + i * 4)
        .find(|port| (*port..port + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()))
        .unwrap()
}

impl Ceph {
    fn start() -> Self {
        let ceph = Self { dir: tempfile::tempdir().unwrap(), port: free_ports() };
        succeed(script().arg("up").arg(ceph.dir.path()).arg(ceph.port.to_string()));
        ceph
    }

    fn settings(&self) -> RemoteSettings {
        RemoteSettings {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            access_key_id: Some("test".into()),
            secret_access_key: Some(Hidden::new("testtest".into())),
            ..RemoteSettings::default()
        }
    }

    fn make_bucket(&self, name: &str) {
        // As curl signs it; the gateway wants the hash of what is sent, which is nothing.
        let nothing =
            "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let url = format!("http://127.0.0.1:{}/{name}", self.port);
        let signed = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test:testtest", "-H", nothing];
        succeed(Command::new("curl").args(["-sf", "-X", "PUT"]).args(signed).arg(&url));
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        let _ = run(script().arg("down").arg(self.dir.path()));
    }
}

fn objects(url: &str, settings: RemoteSettings) -> Arc<dyn Objects> {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    with_clouds();
    connect(&Address { url: url.parse().unwrap(), settings }, &clock).unwrap().once
}

fn trouble(url: &str, settings: RemoteSettings) -> (Trouble, String) {
    let e = objects(url, settings).get("store", 100).unwrap_err();
    (e.trouble, e.to_string())
}

#[test]
fn a_real_object_store_does_what_the_simulated_one_does() {
    let ceph = Ceph::start();
    ceph.make_bucket("test");
    let count = Cell::new(0);
    suite::everything(&|| {
        count.set(count.get() + 1);
        objects(&format!("s3://test/Some_prefix/{}", count.get()), ceph.settings())
    });
    // Below no prefix at all, among what others have there.
    ceph.make_bucket("whole");
    let whole = objects("s3://whole", ceph.settings());
    whole.put_new("store", bytes::Bytes::from_static(b"1")).unwrap();
    assert_eq!(whole.list("", "", 10).unwrap()[0].name, "store");
    assert_eq!(objects("s3://test", ceph.settings()).list_dirs("", 10).unwrap(), ["Some_prefix"]);
    failures_are_told_apart(&ceph);
    credentials_come_from_a_file(&ceph);
    certificates_are_checked(&ceph);
    the_commands_work(&ceph);
}

fn failures_are_told_apart(ceph: &Ceph) {
    assert_eq!(trouble("s3://test/x", ceph.settings()).0, Trouble::Missing);
    let (kind, text) = trouble("s3://nosuchbucket/x", ceph.settings());
    assert!(kind == Trouble::Missing && text.contains("no such bucket"), "{text}");
    let wrong = RemoteSettings { secret_access_key: Some(Hidden::new("hunter2".into())), ..ceph.settings() };
    let (kind, text) = trouble("s3://test/x", wrong.clone());
    assert!(
        kind == Trouble::Refused && text.contains("SignatureDoesNotMatch") && !text.contains("hunter2"),
        "{text}"
    );
    let put = objects("s3://test/x", wrong).put_new("a", bytes::Bytes::new()).unwrap_err();
    assert_eq!(put.trouble, Trouble::Refused);
    let unknown = RemoteSettings { access_key_id: Some("nobody".into()), ..ceph.settings() };
    assert_eq!(trouble("s3://test/x", unknown).0, Trouble::Refused);
    let nobody = RemoteSettings {
        credentials: CredentialSource::None,
        access_key_id: None,
        secret_access_key: None,
        ..ceph.settings()
    };
    assert_eq!(trouble("s3://test/x", nobody).0, Trouble::Refused);
    let closed = RemoteSettings { endpoint: Some("http://127.0.0.1:1".into()), ..ceph.settings() };
    let (kind, text) = trouble("s3://test/x", closed);
    assert!(kind == Trouble::Unreachable && text.contains("refused"), "{text}");
    let unnamed = RemoteSettings { endpoint: Some("http://no-such-host.invalid".into()), ..ceph.settings() };
    assert_eq!(trouble("s3://test/x", unnamed).0, Trouble::Unreachable);
}

fn credentials_come_from_a_file(ceph: &Ceph) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("credentials");
    let write = |secret: &str| {
        fs::write(&path, format!("[backup]\naws_access_key_id = test\naws_secret_access_key = {secret}\n"))
            .unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("testtest");
    let text = format!(
        "[offsite]\nurl = \"s3://test/named\"\nendpoint = \"http://127.0.0.1:{}\"\ncredentials-file = {path:?}\nprofile = \"backup\"\n",
        ceph.port
    );
    let remotes = Remotes::parse(&text).unwrap();
    let address = Address::named("offsite", Some("Db"), &remotes).unwrap();
    assert_eq!(address.url.to_string(), "s3://test/named/Db");
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let objects = connect(&address, &clock).unwrap().once;
    objects.put_new("store", bytes::Bytes::from_static(b"1")).unwrap();
    // A key that was exchanged is known at once.
    write("another");
    assert_eq!(objects.get("store", 10).unwrap_err().trouble, Trouble::Refused);
    write("testtest");
    assert_eq!(objects.get("store", 10).unwrap(), "1");
}

fn certificates_are_checked(ceph: &Ceph) {
    let secure =
        RemoteSettings { endpoint: Some(format!("https://127.0.0.1:{}", ceph.port + 3)), ..ceph.settings() };
    let known = RemoteSettings { ca_file: Some(ceph.dir.path().join("ca.pem")), ..secure.clone() };
    let objects = objects("s3://test/tls", known);
    objects.put_new("store", bytes::Bytes::from_static(b"1")).unwrap();
    assert_eq!(objects.get("store", 10).unwrap(), "1");
    let (_, text) = trouble("s3://test/tls", secure);
    assert!(text.contains("certificate"), "{text}");
}

fn the_commands_work(ceph: &Ceph) {
    let url = "s3://test/commands";
    super::commands::on_an_object_store(
        &format!("http://127.0.0.1:{}", ceph.port),
        url,
        &objects(url, ceph.settings()),
    );
}
