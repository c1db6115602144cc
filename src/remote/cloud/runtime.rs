//! The thread that asynchronous requests run on: one for the process, started with the first request.

use std::future::Future;
use std::sync::{OnceLock, mpsc};
use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceLock<Result<Handle, String>> = OnceLock::new();

fn start() -> Result<Handle, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    let thread = std::thread::Builder::new().name("remote".into()).spawn(run);
    thread.map(|_| handle).map_err(|e| format!("cannot start a thread: {e}"))
}

/// Runs `work` there, and waits for it.
pub(super) fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let handle = RUNTIME.get_or_init(start).clone()?;
    let (done, result) = mpsc::sync_channel(1);
    handle.spawn(async move {
        // Nobody else receives.
        let _ = done.send(work.await);
    });
    result.recv().map_err(|_| "the request ended early".to_owned())
}

/// The runtime, for what wants to be built inside of it.
pub(super) fn handle() -> Result<Handle, String> {
    RUNTIME.get_or_init(start).clone()
}
