//! S3, GCS and Azure, by the crate `object_store`: the only part of remotes that is asynchronous, on a thread of its own.

mod build;
mod credentials;
mod failure;
mod instance;
mod runtime;
mod watched;

pub(super) use build::cloud;

use super::objects::{Listed, Objects, Outcome, Trouble, failed, is_name, must_make_sense};
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long a request may take, whatever it moves.
const PATIENCE: Duration = Duration::from_secs(15);
/// And how long beside that, for so many bytes a second: slower ones are tried again.
const SLOWEST: u64 = 128 << 10;
/// Names in a page of a list, which object stores do not exceed.
const PAGE: usize = 1000;
/// Pages after which a list of directories is complete enough: a bucket can have millions of other objects.
const PAGES_MAX: usize = 50;

/// What a store has to do for us. Both are the same object.
struct Store {
    objects: Arc<dyn ObjectStore>,
    lists: Arc<dyn PaginatedListStore>,
    /// Whether pages of a list follow each other in the order of names.
    is_sorted: bool,
}

/// An object store in a network.
pub struct Cloud {
    place: String,
    prefix: String,
    store: Arc<Store>,
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is inside knows the credentials.
        f.debug_struct("Cloud").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What a request gives, or the store's error.
type Answer<T> = object_store::Result<T>;

impl Cloud {
    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// Makes a request of at most so many bytes and waits for its answer.
    fn ask<T: Send + 'static, F: Future<Output = Answer<T>> + Send + 'static>(
        &self,
        doing: &'static str,
        name: &str,
        bytes: u64,
        request: impl FnOnce(Arc<Store>, Path) -> F + Send + 'static,
    ) -> Outcome<T> {
        must_make_sense(doing, &self.place, name)?;
        let fail = |trouble, why: String| Err(failed(trouble, doing, &self.place, name, why));
        let path = match Path::parse(self.full(name.trim_end_matches('/'))) {
            Ok(path) => path,
            Err(e) => return fail(Trouble::Other, e.to_string()),
        };
        let time = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        let store = Arc::clone(&self.store);
        let answer = runtime::run(async move {
            let request = watched::watch(request(store, path));
            tokio::time::timeout(time, request).await.map_err(|_| time)
        });
        match answer {
            Err(why) => fail(Trouble::Other, why),
            Ok(Err(time)) => fail(Trouble::Unreachable, format!("no answer within {} s", time.as_secs())),
            Ok(Ok((Ok(answer), _))) => Ok(answer),
            Ok(Ok((Err(e), status))) => {
                let (trouble, why) = failure::sort(&e, status);
                fail(trouble, why)
            }
        }
    }

    /// The name below the prefix of something in a list; `None` if it is none of ours.
    fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(full),
            prefix => full.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        let name = self.relative(meta.location.as_ref()).filter(|name| is_name(name))?;
        Some(Listed { name: name.into(), bytes: meta.size, modified: meta.last_modified.timestamp() })
    }

    /// A page of a list.
    fn page(
        &self,
        under: &str,
        opts: PaginatedListOptions,
    ) -> Outcome<(object_store::ListResult, Option<String>)> {
        let prefix = self.full(under);
        self.ask("list", under, 0, move |store, _| async move {
            let page =
                store.lists.list_paginated(Some(prefix.as_str()).filter(|p| !p.is_empty()), opts).await?;
            Ok((page.result, page.page_token))
        })
    }

    fn put_as(&self, name: &str, bytes: Bytes, mode: PutMode) -> Outcome<()> {
        self.ask("write", name, bytes.len() as u64, move |store, path| async move {
            let opts = PutOptions { mode, ..PutOptions::default() };
            store.objects.put_opts(&path, PutPayload::from_bytes(bytes), opts).await.map(|_| ())
        })
    }

    fn get_as(&self, name: &str, range: Option<Range<u64>>, most: u64) -> Outcome<Bytes> {
        let read = self.ask("read", name, most, move |store, path| async move {
            let opts = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
            let found = store.objects.get_opts(&path, opts).await?;
            let len = found.range.end.saturating_sub(found.range.start);
            if len > most {
                return Ok(Err(len));
            }
            let mut bytes = Vec::with_capacity(len as usize);
            let mut stream = found.into_stream();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk?;
                if (bytes.len() + chunk.len()) as u64 > most {
                    return Ok(Err((bytes.len() + chunk.len()) as u64));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Ok(Bytes::from(bytes)))
        })?;
        read.map_err(|len| {
            let why = format!("its {len} bytes are more than the {most} that it can have");
            failed(Trouble::Other, "read", &self.place, name, why)
        })
    }
}

impl Objects for Cloud {
    fn place(&self) -> &str {
        &self.place
    }

    fn put_new(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.put_as(name, bytes, PutMode::Create)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Outcome<()> {
        self.put_as(name, bytes, PutMode::Overwrite)
    }

    fn get(&self, name: &str, most: u64) -> Outcome<Bytes> {
        self.get_as(name, None, most)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Outcome<Bytes> {
        let most = range.end.saturating_sub(range.start);
        if most == 0 {
            return Ok(Bytes::new());
        }
        self.get_as(name, Some(range), most)
    }

    fn head(&self, name: &str) -> Outcome<Listed> {
        let meta = self.ask("read", name, 0, |store, path| async move { store.objects.head(&path).await })?;
        Ok(Listed { name: name.into(), bytes: meta.size, modified: meta.last_modified.timestamp() })
    }

    fn list(&self, under: &str, after: &str, most: usize) -> Outcome<Vec<Listed>> {
        let mut found: Vec<Listed> = Vec::new();
        let mut token = None;
        loop {
            let opts = PaginatedListOptions {
                offset: Some(after).filter(|after| !after.is_empty()).map(|after| self.full(after)),
                max_keys: Some(if self.store.is_sorted {
                    most.saturating_sub(found.len()).clamp(1, PAGE)
                } else {
                    PAGE
                }),
                page_token: token,
                ..PaginatedListOptions::default()
            };
            let (page, next) = self.page(under, opts)?;
            found.extend(
                page.objects
                    .iter()
                    .filter_map(|meta| self.listed(meta))
                    .filter(|one| one.name.as_str() > after),
            );
            token = next;
            if token.is_none() || (self.store.is_sorted && found.len() >= most) {
                break;
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found.truncate(most);
        Ok(found)
    }

    fn list_dirs(&self, under: &str, most: usize) -> Outcome<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let opts = PaginatedListOptions {
                delimiter: Some("/".into()),
                max_keys: Some(PAGE),
                page_token: token,
                ..PaginatedListOptions::default()
            };
            let (page, next) = self.page(under, opts)?;
            let below = |path: &Path| {
                Some(self.relative(path.as_ref())?.strip_prefix(under)?.trim_end_matches('/').to_owned())
            };
            found.extend(
                page.common_prefixes
                    .iter()
                    .filter_map(below)
                    .filter(|name| !name.is_empty() && !name.contains('/')),
            );
            token = next;
            if token.is_none() || found.len() >= most {
                break;
            }
        }
        found.sort_unstable();
        found.truncate(most);
        Ok(found)
    }

    fn delete(&self, name: &str) -> Outcome<()> {
        let deleted =
            self.ask("remove", name, 0, |store, path| async move { store.objects.delete(&path).await });
        deleted.or_else(|e| if e.trouble == Trouble::Missing { Ok(()) } else { Err(e) })
    }
}
