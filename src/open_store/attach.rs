//! Putting down a store that its remote has: the header, the metadata, and no block. It is opened as after a crash; blocks come when they
//! are read ([`Segments::fetch_from`](crate::store::Segments::fetch_from)).

use crate::backing::{Dir, OpenMode};
use crate::crypto::Keys;
use crate::meta::{Laying, Meta, MetaError, MetaFiles, ReleaseError};
use crate::remote::{self, Attached, Log, RemoteError, names};
use crate::store::{HEADER_NAME, Header, HeaderError, StoreId};
use std::io::{self, IoSlice};
use std::sync::Arc;
use thiserror::Error;

/// Ids of segments that are passed over where ids are nonces; each opening passes over more, a random number of them.
const IDS_SKIPPED: u64 = 1 << 24;
/// Ids below this are all distinct in the checksums of a plain store: what is passed over there is a part of those that are left.
const PLAIN_IDS: u64 = 1 << 32;
/// That part: after hundreds of attaches, one after the other, most are left.
const PLAIN_PART: u64 = 512;
/// And so many at least.
const PLAIN_SKIPPED: u64 = 1 << 12;
/// No store comes so far.
const IDS_MAX: u64 = 1 << 61;

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

/// How many ids of segments to pass over behind those up to `highest`: more than any owner before this one has reserved and not shipped, so
/// that what it may still write goes to other addresses; and not as many as another one passes over that begins with the same state.
fn ids_to_skip(keys: &Keys, highest: u64) -> io::Result<u64> {
    if keys.is_encrypted() {
        return Ok(IDS_SKIPPED);
    }
    let part = (PLAIN_IDS.saturating_sub(highest) / PLAIN_PART).max(PLAIN_SKIPPED);
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(part + u64::from_le_bytes(bytes) % part)
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
    // An owner before this one may have shipped blocks and no state that says so.
    let highest = attached.catalog.highest();
    if highest >= IDS_MAX {
        return Err(RemoteError::Damaged {
            place: log.sealer().place().into(),
            name: names::record(attached.at.number),
            what: format!("segment {highest} is said to be there, and no store has so many"),
        }
        .into());
    }
    let highest = meta.pass_segments(highest);
    meta.reserve_segments(ids_to_skip(keys, highest).map_err(io("meta.db"))?)?;
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
