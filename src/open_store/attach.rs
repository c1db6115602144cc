//! Putting down a store that its remote has: the header, the metadata, and no block. It is opened as after a crash; blocks come when they
//! are read ([`Segments::fetch_from`](crate::store::Segments::fetch_from)).

use crate::backing::{Dir, OpenMode};
use crate::crypto::Keys;
use crate::meta::{Laying, Meta, MetaError, MetaFiles, ReleaseError};
use crate::remote::{self, Attached, Log, RemoteError};
use crate::store::{HEADER_NAME, Header, HeaderError, StoreId};
use std::io::{self, IoSlice};
use std::sync::Arc;
use thiserror::Error;

/// Ids of segments that are passed over: more than any owner before this one has reserved and not shipped. What it may still write goes
/// to other addresses.
const IDS_SKIPPED: u64 = 1 << 24;

/// Why a store could not be put down.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The remote.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The header, or keys that are not its own.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The host.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

struct Pages(Laying);

impl remote::Pages for Pages {
    fn put(&mut self, number: u32, contents: &[u8]) -> io::Result<()> {
        self.0.put(number, contents)
    }
}

/// Puts the store `store` down in `dir`, which is empty but for an empty directory for segments, as it is at the newest record of the
/// log. `header` are the bytes of its header, whose keys are among `keys`: with others, nothing is sealed.
///
/// # Errors
/// See [`AttachError`]. What is in `dir` then is nothing.
pub fn lay_down(
    dir: &Arc<dyn Dir>,
    log: &Log,
    store: StoreId,
    header: &[u8],
    keys: &Keys,
) -> Result<Attached, AttachError> {
    let io = |name: &str| {
        let path = dir.path(name);
        move |source| AttachError::Io { path, source }
    };
    let named = Header::parse(header, &dir.path(HEADER_NAME))?;
    let keys = &keys.only(&named.epochs());
    named.check_keys(&**dir, keys)?;
    let laying = Laying::begin(Arc::clone(dir), keys).map_err(io("meta.db"))?;
    let mut pages = Pages(laying);
    let attached = remote::attach(log, &mut pages)?;
    pages.0.finish(attached.pages).map_err(io("meta.db"))?;
    let files = MetaFiles::with_keys(Arc::clone(dir), false, keys.clone()).map_err(io("meta.db"))?;
    let mut meta = Meta::open(Arc::clone(&files), store)?;
    meta.reserve_segments(IDS_SKIPPED)?;
    let committed = meta.commit(&[])?;
    files.release(committed.mark).map_err(|e| match e {
        ReleaseError::Write(source) | ReleaseError::Sync(source) => io("meta.db")(source),
    })?;
    meta.finish()?;
    // Last: without it, there is no store.
    let written = || {
        let file = dir.open(HEADER_NAME, OpenMode::CreateNew)?;
        file.write_at(&[IoSlice::new(header)], 0)?;
        file.sync()?;
        dir.sync("")
    };
    written().map_err(io(HEADER_NAME))?;
    Ok(attached)
}
