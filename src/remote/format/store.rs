//! The object `store`: what lies below a prefix, readable by everybody who can read the remote.

use super::super::bytes::{Malformed, Reader, Writer};
use crate::store::StoreId;
use bytes::Bytes;

/// Names of what a reader of a remote must know beyond the version of its objects, as far as this program knows them.
pub const REMOTE_FEATURES: [&str; 1] = ["remote-1"];
/// What the object `store` names when what is there is being removed: no reader knows it.
pub const BEING_REMOVED: &str = "removed";
/// What it names while whoever is to remove it looks whether somebody has it: nothing was removed yet. Nobody claims it meanwhile.
pub const REMOVAL_ASKED: &str = "removal-asked";
const FEATURES_MAX: usize = 64;
const FEATURE_BYTES_MAX: usize = 64;

/// What a remote holds. Written once, before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreObject {
    /// The store's id.
    pub store: StoreId,
    /// When the remote was made, in seconds since 1970.
    pub created: u64,
    /// Whether everything in it is encrypted, but for this and the versions of the header.
    pub encrypted: bool,
    /// What a reader must know.
    pub features: Vec<String>,
}

pub(super) fn write_features(out: &mut Writer, features: &[String]) {
    out.list(features, |out, name| {
        out.text(name, FEATURE_BYTES_MAX);
    });
}

pub(super) fn read_features(from: &mut Reader) -> Result<Vec<String>, Malformed> {
    let features = from.list(2, |from| from.text(FEATURE_BYTES_MAX))?;
    if features.len() > FEATURES_MAX { Err(Malformed("it names too many features")) } else { Ok(features) }
}

impl StoreObject {
    /// The object of a new remote, of a store with this id.
    pub fn new(store: StoreId, created: u64, encrypted: bool) -> Self {
        let features = REMOTE_FEATURES.iter().map(|&name| name.to_owned()).collect();
        Self { store, created, encrypted, features }
    }

    /// The first feature that this program does not know.
    pub fn unknown_feature(features: &[String]) -> Option<&str> {
        features.iter().map(String::as_str).find(|name| !REMOTE_FEATURES.contains(name))
    }

    pub(in super::super) fn to_body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.created).u8(self.encrypted.into());
        write_features(&mut out, &self.features);
        out.take()
    }

    pub(in super::super) fn from_body(store: StoreId, body: Bytes) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let created = from.u64()?;
        let encrypted = match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("it does not say whether it is encrypted")),
        };
        let features = read_features(&mut from)?;
        from.end()?;
        Ok(Self { store, created, encrypted, features })
    }
}
