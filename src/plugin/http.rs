//! HTTP: from connections to calls, and from answers to connections.
//!
//! What is asked goes on when the client goes: engines give up, and ask again. Only a mount that nobody waits for any more is taken
//! back, because the engine does not know that it was counted.

use super::driver::Driver;
use super::protocol::{Answer, BadCall, Call, error_body};
use crate::exit_code::Exit;
use crate::volume::{Result, VolumeError};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::Level;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot, watch};

/// Options and labels are short.
const BODY_MAX: usize = 1 << 20;
/// Calls that are worked on at once; the others wait.
const CALLS_MAX: u32 = 1024;
/// How long a request may take to arrive once it has begun.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may be idle: engines keep theirs, and do not like to lose one just when they ask.
const IDLE: Duration = Duration::from_secs(3600);

/// What answers.
pub(super) struct Service {
    driver: Arc<Driver>,
    ready: watch::Receiver<bool>,
    calls: Semaphore,
}

impl Service {
    /// Answers by `driver`, once `ready` says so.
    pub(super) fn new(driver: Arc<Driver>, ready: watch::Receiver<bool>) -> Self {
        Self { driver, ready, calls: Semaphore::new(CALLS_MAX as usize) }
    }

    /// Answers the requests of a connection, until it ends.
    pub(super) async fn converse(self: Arc<Self>, stream: UnixStream) {
        // None that this process could look at has number 0.
        let peer =
            stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok()).filter(|pid| *pid != 0);
        let service = service_fn(move |request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.respond(request, peer).await) }
        });
        let conversation = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(e) = conversation.await {
            log::debug!("a connection ended: {e}");
        }
    }

    async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Option<u32>,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return response(StatusCode::METHOD_NOT_ALLOWED, &error_body("the protocol uses POST only"));
        }
        let path = request.uri().path().to_owned();
        let bytes = match read_body(request.into_body()).await {
            Ok(bytes) => bytes,
            Err((status, what)) => return response(status, &error_body(&what)),
        };
        let call = match Call::parse(&path, &bytes) {
            Ok(call) => call,
            Err(BadCall::Unknown) => {
                return response(StatusCode::NOT_FOUND, &error_body(&format!("there is no method {path:?}")));
            }
            Err(BadCall::Malformed(what)) => return response(StatusCode::BAD_REQUEST, &error_body(&what)),
        };
        log::debug!("{call:?}");
        // Engines do not forget an error; that they have to wait, they do.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
        match self.perform(call.clone(), peer).await {
            Ok(answer) => response(StatusCode::OK, &answer.body()),
            Err(e) => {
                // An engine asks whether there is a volume before it makes one.
                let is_question =
                    matches!(call, Call::Get { .. } | Call::Path { .. }) && e.exit == Exit::NoVolume;
                let level = if is_question { Level::Debug } else { Level::Warn };
                log::log!(level, "{path}: {e}");
                response(StatusCode::INTERNAL_SERVER_ERROR, &error_body(&e.message))
            }
        }
    }

    /// Does what process `peer` asks, on a thread where it may block.
    async fn perform(self: Arc<Self>, call: Call, peer: Option<u32>) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        // A task of its own, because this one ends when the client goes.
        tokio::spawn(async move {
            let _hold = match call.changes() {
                Some(name) => Some(self.driver.locks.hold(name).await),
                None => None,
            };
            // Only now: those who wait for one volume are not to be in the way of others.
            let Ok(_permit) = self.calls.acquire().await else { return };
            if answer.is_closed() && matches!(call, Call::Mount { .. } | Call::Create { .. }) {
                return;
            }
            let undo = match &call {
                Call::Mount { name, id } => Some(Call::Unmount { name: name.clone(), id: id.clone() }),
                _ => None,
            };
            let mut result = self.block_on(call).await;
            if let (Ok(_), Some(undo @ Call::Unmount { name, .. }), Some(peer)) = (&result, &undo, peer)
                && let Err(e) = self.driver.must_be_seen(name, peer)
            {
                let _ = self.block_on(undo.clone()).await;
                result = Err(e);
            }
            if let (Err(Ok(_)), Some(undo)) = (answer.send(result), undo) {
                log::warn!("whoever asked for a mount is gone; taking it back");
                let _ = self.block_on(undo).await;
            }
        });
        answered.await.unwrap_or_else(|_| Err(internal_error()))
    }

    async fn block_on(&self, call: Call) -> Result<Answer> {
        let driver = Arc::clone(&self.driver);
        let done = tokio::task::spawn_blocking(move || driver.answer(call)).await;
        done.unwrap_or_else(|_| Err(internal_error()))
    }

    /// Waits until nothing is worked on, for `patience` at most.
    pub(super) async fn finish(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.calls.acquire_many(CALLS_MAX)).await.is_err() {
            log::warn!("calls are still being worked on; ending all the same");
        }
    }
}

fn internal_error() -> VolumeError {
    VolumeError::new(Exit::Failure, "the plugin failed; its log says why")
}

async fn read_body(body: Incoming) -> Result<Bytes, (StatusCode, String)> {
    let too_long = || (StatusCode::PAYLOAD_TOO_LARGE, format!("the request is longer than {BODY_MAX} bytes"));
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(e)) => Err((StatusCode::BAD_REQUEST, format!("the request could not be read: {e}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time".into())),
    }
}

fn response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
