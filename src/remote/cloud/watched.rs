//! Which status the last answer of a request had: `object_store` keeps that to itself.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use std::cell::Cell;
use std::future::Future;

tokio::task_local! {
    static STATUS: Cell<Option<u16>>;
}

/// Makes HTTP clients that take note of the status.
#[derive(Debug, Default)]
pub(super) struct Watched {
    inner: ReqwestConnector,
}

impl HttpConnector for Watched {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.inner.connect(options).map(|client| HttpClient::new(Service { client }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
}

fn note(status: Option<u16>) {
    // Outside of a request of ours, nobody wants to know.
    let _ = STATUS.try_with(|cell| cell.set(status));
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        note(None);
        let response = self.client.execute(request).await;
        note(response.as_ref().ok().map(|response| response.status().as_u16()));
        response
    }
}

/// Runs a request, and says which status its last answer had; `None` if there was none.
pub(super) async fn watch<T>(request: impl Future<Output = T>) -> (T, Option<u16>) {
    STATUS
        .scope(Cell::new(None), async {
            let result = request.await;
            (result, STATUS.with(Cell::get))
        })
        .await
}
