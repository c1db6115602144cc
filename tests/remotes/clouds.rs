//! What is made of the answers of object stores: from a server that says what it is told to.

use bytes::Bytes;
use larder::config::{CredentialSource, Hidden, RemoteSettings};
use larder::remote::{Address, BootClock, Clock, Objects, Trouble, connect, with_clouds};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A server that answers every request with the same bytes, and keeps what it was asked.
struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn answering(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        // It ends with the program.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if let Some(request) = read_request(&stream) {
                    kept.lock().unwrap().push(request);
                    let _ = (&stream).write_all(&answer);
                }
            }
        });
        Self { endpoint, asked }
    }

    fn objects(&self, url: &str) -> Arc<dyn Objects> {
        // Google's are a key in a file.
        let secret = (!url.starts_with("gs")).then(|| Hidden::new("aHVudGVyMg==".into()));
        let settings = RemoteSettings {
            endpoint: Some(self.endpoint.clone()),
            access_key_id: secret.is_some().then(|| "account".into()),
            secret_access_key: secret,
            credentials: CredentialSource::None,
            ..RemoteSettings::default()
        };
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        with_clouds();
        connect(&Address { url: url.parse().unwrap(), settings }, &clock).unwrap().once
    }
}

/// The head of a request, whose body is read, too.
fn read_request(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut len) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    reader.take(len).read_to_end(&mut Vec::new()).ok()?;
    Some(head)
}

fn answer(status: &str, code: &str) -> Vec<u8> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>secret hunter2</Message></Error>");
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// An object of so many bytes, of which these arrive.
fn object(len: u64, body: &str) -> Vec<u8> {
    let about = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"x\"\r\nConnection: close";
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n{about}\r\n\r\n{body}").into_bytes()
}

#[test]
fn answers_are_sorted_by_what_helps() {
    for (answer, expected, said) in [
        (answer("500 Internal Server Error", "InternalError"), Trouble::Unreachable, "500 (InternalError)"),
        (answer("503 Slow Down", "SlowDown"), Trouble::Unreachable, "SlowDown"),
        (answer("429 Too Many Requests", "TooManyRequests"), Trouble::Unreachable, "429"),
        (answer("404 Not Found", "NoSuchKey"), Trouble::Missing, "no such object"),
        (answer("404 Not Found", "NoSuchBucket"), Trouble::Missing, "no such bucket"),
        (answer("403 Forbidden", "AccessDenied"), Trouble::Refused, "credentials"),
        (answer("403 Forbidden", "RequestTimeTooSkewed"), Trouble::Refused, "clock of this host"),
        (answer("401 Unauthorized", "x"), Trouble::Refused, "credentials"),
        (answer("400 Bad Request", "ExpiredToken"), Trouble::Refused, "ExpiredToken"),
        (answer("400 Bad Request", "InvalidRequest"), Trouble::Other, "InvalidRequest"),
        (answer("507 Insufficient Storage", "x"), Trouble::Full, "507"),
        (object(10, "1234"), Trouble::Unreachable, ""),
        (object(1 << 40, "1234"), Trouble::Other, "more than the 10"),
        (b"hello\r\n\r\n".to_vec(), Trouble::Unreachable, ""),
        (b"".to_vec(), Trouble::Unreachable, ""),
    ] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let server = Server::answering(answer);
        let e = server.objects("s3://bucket/x").get("store", 10).unwrap_err();
        let shown = e.to_string();
        assert_eq!(e.trouble, expected, "{text}: {shown}");
        assert!(shown.contains(said) && !shown.contains("hunter2"), "{text}: {shown}");
        assert!(!shown.contains("aHVudGVyMg") && !shown.contains("Signature"), "{shown}");
        // Nothing is tried again by the library.
        assert_eq!(server.asked.lock().unwrap().len(), 1, "{text}");
    }
}

#[test]
fn a_write_of_a_name_that_is_taken_is_told_from_others() {
    for (url, status, code) in [
        ("s3://bucket/x", "412 Precondition Failed", "PreconditionFailed"),
        ("s3://bucket/x", "409 Conflict", "ConditionalRequestConflict"),
        ("gs://bucket/x", "412 Precondition Failed", "PreconditionFailed"),
        ("az://container/x", "409 Conflict", "BlobAlreadyExists"),
    ] {
        let server = Server::answering(answer(status, code));
        let e = server.objects(url).put_new("log/1", Bytes::from_static(b"1")).unwrap_err();
        assert_eq!(e.trouble, Trouble::Exists, "{url} {status}: {e}");
        // Google's escapes what is between components.
        let asked = server.asked.lock().unwrap().join("").replace("%2F", "/");
        let lower = asked.to_ascii_lowercase();
        assert!(lower.contains("if-none-match: *") || lower.contains("if-generation-match: 0"), "{asked}");
        assert!(asked.contains("/x/log/1"), "{asked}");
        assert!(lower.starts_with("put "), "{asked}");
    }
    for url in ["s3://bucket/x", "gs://bucket/x", "az://container/x"] {
        let server = Server::answering(answer("503 Slow Down", "x"));
        let e = server.objects(url).put_new("log/1", Bytes::from_static(b"1")).unwrap_err();
        assert_eq!(e.trouble, Trouble::Unreachable, "{url}: {e}");
        let server = Server::answering(answer("404 Not Found", "x"));
        assert_eq!(server.objects(url).head("store").unwrap_err().trouble, Trouble::Missing, "{url}");
    }
}

/// They were passed over, and other credentials used.
#[test]
fn credentials_that_a_provider_does_not_have_are_refused() {
    with_clouds();
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let given = [
        RemoteSettings { access_key_id: Some("id".into()), ..RemoteSettings::default() },
        RemoteSettings {
            secret_access_key: Some(Hidden::new("hunter2".into())),
            ..RemoteSettings::default()
        },
        RemoteSettings { session_token: Some(Hidden::new("hunter2".into())), ..RemoteSettings::default() },
    ];
    for settings in given {
        let address = Address { url: "gs://bucket/x".parse().unwrap(), settings };
        let refused = connect(&address, &clock).unwrap_err().to_string();
        assert!(refused.contains("credentials-file") && !refused.contains("hunter2"), "{refused}");
    }
}

/// The file of the user who runs it came first.
#[test]
fn credentials_of_the_machine_are_asked_for_whatever_else_there_is() {
    let token = r#"{"access_token":"of-the-machine","expires_in":3600,"token_type":"Bearer"}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", token.len());
    let service = Server::answering(format!("{head}{token}").into_bytes());
    let listed = r#"<?xml version="1.0" encoding="UTF-8"?><ListBucketResult></ListBucketResult>"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", listed.len());
    let store = Server::answering(format!("{head}{listed}").into_bytes());
    let (host, home) = (crate::support::Host::new(), crate::support::scratch());
    let dir = home.path().join(".config/gcloud");
    std::fs::create_dir_all(&dir).unwrap();
    let of_the_user = r#"{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}"#;
    std::fs::write(dir.join("application_default_credentials.json"), of_the_user).unwrap();
    let remotes = home.path().join("remotes.toml");
    let text = format!(
        "[there]\nurl = \"gs://bucket/x\"\nendpoint = \"{}\"\ncredentials = \"instance\"\n",
        store.endpoint
    );
    std::fs::write(&remotes, text).unwrap();
    let machine = service.endpoint.trim_start_matches("http://");
    let mut ls = host.command(&["remote", "ls", "there"]);
    ls.env("HOME", home.path()).env("LARDER_REMOTES", &remotes);
    let output = crate::support::run(ls.env("GCE_METADATA_HOST", machine).env("GCE_METADATA_IP", machine));
    let asked = store.asked.lock().unwrap().concat().to_lowercase();
    assert!(asked.contains("authorization: bearer of-the-machine"), "{asked} {output:?}");
    assert!(service.asked.lock().unwrap()[0].to_lowercase().contains("metadata-flavor: google"));
}
