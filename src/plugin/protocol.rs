//! The messages of the volume plugin protocol.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What an engine asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// What are you?
    Activate,
    /// Is a volume of yours the same on other hosts?
    Capabilities,
    /// Make a volume.
    Create { name: String, options: BTreeMap<String, String> },
    /// Remove a volume.
    Remove { name: String },
    /// Mount a volume, for the user with this ID.
    Mount { name: String, id: String },
    /// The user with this ID does not need it any more.
    Unmount { name: String, id: String },
    /// Where is it mounted?
    Path { name: String },
    /// What is there to know of a volume?
    Get { name: String },
    /// What volumes are there?
    List,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NamedWithOptions {
    name: String,
    #[serde(default)]
    opts: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct NamedWithId {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "ID")]
    id: String,
}

/// Why a request is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadCall {
    /// There is no such method.
    Unknown,
    /// The body is not what it should be.
    Malformed(String),
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadCall> {
    // A retry of dockerd's can come with nothing in it.
    serde_json::from_slice(bytes).map_err(|e| BadCall::Malformed(format!("the request is malformed: {e}")))
}

impl Call {
    /// Reads a request.
    pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Self, BadCall> {
        Ok(match path {
            "/Plugin.Activate" => Self::Activate,
            "/VolumeDriver.Capabilities" => Self::Capabilities,
            "/VolumeDriver.List" => Self::List,
            "/VolumeDriver.Create" => {
                let NamedWithOptions { name, opts } = body(bytes)?;
                Self::Create { name, options: opts.unwrap_or_default() }
            }
            "/VolumeDriver.Remove" => Self::Remove { name: body::<Named>(bytes)?.name },
            "/VolumeDriver.Path" => Self::Path { name: body::<Named>(bytes)?.name },
            "/VolumeDriver.Get" => Self::Get { name: body::<Named>(bytes)?.name },
            "/VolumeDriver.Mount" => {
                let NamedWithId { name, id } = body(bytes)?;
                Self::Mount { name, id }
            }
            "/VolumeDriver.Unmount" => {
                let NamedWithId { name, id } = body(bytes)?;
                Self::Unmount { name, id }
            }
            _ => return Err(BadCall::Unknown),
        })
    }

    /// The volume that must not be changed by others meanwhile, for calls that change one.
    pub(super) fn changes(&self) -> Option<&str> {
        match self {
            Self::Create { name, .. }
            | Self::Remove { name }
            | Self::Mount { name, .. }
            | Self::Unmount { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// A volume in an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Volume {
    pub(super) name: String,
    /// Also while it is not mounted: scripts put it into paths, and an empty one would make them those of the host.
    pub(super) mountpoint: String,
    /// RFC 3339; engines fail on an empty one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<Value>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Implements,
    Scope,
    Done,
    Mountpoint(String),
    Volume(Box<Volume>),
    Volumes(Vec<Volume>),
}

impl Answer {
    /// A mountpoint; engines know no other bytes than UTF-8.
    pub(super) fn mountpoint(path: &Path) -> Self {
        Self::Mountpoint(path.to_string_lossy().into_owned())
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Value {
        match self {
            Self::Implements => json!({ "Implements": ["VolumeDriver"] }),
            Self::Scope => json!({ "Capabilities": { "Scope": "local" } }),
            Self::Done => json!({ "Err": "" }),
            Self::Mountpoint(path) => json!({ "Mountpoint": path, "Err": "" }),
            Self::Volume(volume) => json!({ "Volume": volume, "Err": "" }),
            Self::Volumes(volumes) => json!({ "Volumes": volumes, "Err": "" }),
        }
    }
}

/// The body of an answer that says what went wrong.
pub(super) fn error_body(message: &str) -> Value {
    json!({ "Err": message })
}

/// For the fuzzer: reads a call and the options in it, which must mean the same when they are written down and read again.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzzed(bytes: &[u8]) {
    use crate::host::VolumeOptions;
    const METHODS: [&str; 3] = ["/VolumeDriver.Create", "/VolumeDriver.Mount", "/VolumeDriver.Get"];
    let Some((method, bytes)) = bytes.split_first() else { return };
    let path = METHODS[usize::from(*method) % METHODS.len()];
    if let Ok(Call::Create { options, .. }) = Call::parse(path, bytes)
        && let Ok(options) = VolumeOptions::parse(&options)
    {
        assert_eq!(VolumeOptions::parse(&options.to_map()), Ok(options));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_engines_write_them() {
        let create = |body: &[u8]| Call::parse("/VolumeDriver.Create", body);
        let plain = Ok(Call::Create { name: "v".into(), options: BTreeMap::new() });
        assert_eq!(create(br#"{"Name":"v"}"#), plain);
        assert_eq!(create(br#"{"Name":"v","Opts":null}"#), plain);
        assert_eq!(create(br#"{"Name":"v","Opts":{}}"#), plain);
        let options = BTreeMap::from([("size".to_owned(), "1G".to_owned())]);
        assert_eq!(
            create(br#"{"Name":"v","Opts":{"size":"1G"},"More":[1]}"#),
            Ok(Call::Create { name: "v".into(), options })
        );
        assert_eq!(Call::parse("/VolumeDriver.List", b""), Ok(Call::List));
        assert_eq!(Call::parse("/Plugin.Activate", b""), Ok(Call::Activate));
        for bad in [
            &b""[..],
            b"{}",
            b"[",
            b"null",
            br#"{"Name":7}"#,
            br#"{"Name":"v","Opts":{"a":1}}"#,
            &b"[".repeat(100_000),
        ] {
            assert!(matches!(create(bad), Err(BadCall::Malformed(_))), "{bad:?}");
        }
        assert!(matches!(Call::parse("/VolumeDriver.Mount", br#"{"Name":"v"}"#), Err(BadCall::Malformed(_))));
        assert_eq!(Call::parse("/", b"{}"), Err(BadCall::Unknown));
    }
}
