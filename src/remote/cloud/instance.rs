//! Credentials of a machine of Google's, from its metadata service and from nowhere else: `object_store` looks for files first.

use super::watched::Watched;
use async_trait::async_trait;
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody};
use object_store::gcp::GcpCredential;
use object_store::{ClientOptions, CredentialProvider, Error, HeaderValue};
use serde::Deserialize;
use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Where the service is, by its name and by its address, if the environment does not say so.
const HOSTS: [(&str, &str); 2] =
    [("GCE_METADATA_HOST", "metadata.google.internal"), ("GCE_METADATA_IP", "169.254.169.254")];
const PATH: &str = "computeMetadata/v1/instance/service-accounts/default/token";
/// How long it may take to answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);
/// So long before its end, a token is not used any more.
const SPARE: Duration = Duration::from_secs(240);

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: u64,
}

/// Asks the metadata service of the machine.
#[derive(Debug)]
pub(super) struct Instance {
    client: HttpClient,
    urls: Vec<String>,
    token: Mutex<Option<(Instant, Arc<GcpCredential>)>>,
}

fn failed(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "GCS", source: Box::new(e) }
}

impl Instance {
    /// The service of this machine. Nothing is asked yet.
    ///
    /// # Errors
    /// As making a client.
    pub(super) fn new() -> object_store::Result<Self> {
        let host = |(variable, usual): (&str, &str)| {
            let named = env::var(variable).ok().filter(|host| !host.is_empty());
            named.unwrap_or_else(|| usual.to_owned())
        };
        Self::at(HOSTS.map(host).iter().map(|host| format!("http://{host}/{PATH}")).collect())
    }

    fn at(urls: Vec<String>) -> object_store::Result<Self> {
        let options =
            ClientOptions::new().with_allow_http(true).with_connect_timeout(CONNECT).with_timeout(ANSWER);
        Ok(Self { client: Watched::default().connect(&options)?, urls, token: Mutex::default() })
    }

    async fn ask(&self, url: &str) -> object_store::Result<Token> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.parse().map_err(failed)?;
        request.headers_mut().insert("metadata-flavor", HeaderValue::from_static("Google"));
        let response = self.client.execute(request).await.map_err(failed)?;
        if !response.status().is_success() {
            let why = format!("the metadata service of the machine answers {}", response.status().as_u16());
            return Err(failed(std::io::Error::other(why)));
        }
        let body = response.into_body().bytes().await.map_err(failed)?;
        // (What it says of bytes that are none may have parts of them.)
        serde_json::from_slice(&body)
            .map_err(|_| failed(std::io::Error::other("the metadata service of the machine gives no token")))
    }
}

#[async_trait]
impl CredentialProvider for Instance {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let mut token = self.token.lock().await;
        if let Some((until, credential)) = &*token
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let mut error = None;
        for url in &self.urls {
            match self.ask(url).await {
                Ok(Token { access_token, expires_in }) => {
                    let left = Duration::from_secs(expires_in.min(1 << 31)).saturating_sub(SPARE);
                    let credential = Arc::new(GcpCredential { bearer: access_token });
                    *token = Some((Instant::now() + left, Arc::clone(&credential)));
                    return Ok(credential);
                }
                Err(e) => error = error.or(Some(e)),
            }
        }
        Err(error.unwrap_or_else(|| failed(std::io::Error::other("there is no metadata service"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// A service that answers each of `answers` once, and the lines that it was sent.
    fn service(answers: Vec<(&'static str, String)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{PATH}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                sent.extend(lines.map(|line| line.unwrap()).take_while(|line| !line.is_empty()));
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close", body.len());
                write!(stream, "{head}\r\n\r\n{body}").unwrap();
            }
            sent
        });
        (url, thread)
    }

    #[test]
    fn tokens_are_those_of_the_machine_and_used_until_they_end() {
        let runtime = super::super::runtime::handle().unwrap();
        let token = |name: &str, seconds: u64| {
            ("200 OK", format!(r#"{{"access_token":"{name}","expires_in":{seconds},"token_type":"Bearer"}}"#))
        };
        let (refuses, _refused) = service(vec![("503 Busy", String::new())]);
        let (url, asked) = service(vec![token("short", 10), token("long", 3600)]);
        let instance = Instance::at(vec![refuses, url]).unwrap();
        let bearer = || runtime.block_on(instance.get_credential()).unwrap().bearer.clone();
        assert_eq!(bearer(), "short");
        // It was about to end. The third time, nobody is asked.
        assert_eq!([bearer(), bearer()], ["long", "long"]);
        let sent = asked.join().unwrap();
        assert_eq!(sent.iter().filter(|line| line.to_lowercase() == "metadata-flavor: google").count(), 2);
        let (nothing, _asked) = service(vec![("200 OK", "<html>".into())]);
        let refused = Instance::at(vec![nothing]).unwrap();
        let e = runtime.block_on(refused.get_credential()).unwrap_err();
        assert!(e.to_string().contains("gives no token"), "{e}");
    }
}
