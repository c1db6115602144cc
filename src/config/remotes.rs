//! `/etc/larder/remotes.toml`: remotes with names, so that nobody has to write endpoints and credentials anywhere else.
//!
//! ```toml
//! [offsite]
//! url = "s3://backups/larder"
//! endpoint = "https://s3.example.com"
//! credentials-file = "/etc/larder/offsite.credentials"
//! upload = "50M"
//! ```

use super::{bytes, explained, is_missing, line_of, path_of};
use crate::backing::open_linked;
use nix::unistd::Uid;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use zeroize::Zeroizing;

/// Where it is, unless the variable of the environment says otherwise.
const PATH: &str = "/etc/larder/remotes.toml";
const VARIABLE: &str = "LARDER_REMOTES";
/// Longer ones are some other file.
const BYTES_MAX: u64 = 1 << 20;

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Zeroizing<String>);

impl Hidden {
    /// Hides a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::new)
    }
}

/// Where credentials come from that are not in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialSource {
    /// The first of these that has some.
    #[default]
    Any,
    /// The environment of the process.
    Environment,
    /// The usual files of the user: `~/.aws/credentials`, and so on.
    Files,
    /// The metadata service of the instance.
    Instance,
    /// There are none, and requests are not signed.
    None,
}

/// A remote with a name: its fields are the keys of its table, in kebab case.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RemoteSettings {
    /// Its URL; that of a volume has the volume's name behind it.
    pub url: Option<String>,
    /// URL of the server, if it is not the usual one.
    pub endpoint: Option<String>,
    /// Region (S3).
    pub region: Option<String>,
    /// Whether the bucket is part of the path, and not of the host's name (S3). On, unless this says otherwise.
    pub path_style: Option<bool>,
    /// Certificates (PEM) that the server's must be signed by, instead of those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Where credentials come from, if not from one of the following.
    pub credentials: CredentialSource,
    /// A file with credentials: as `~/.aws/credentials` (S3), a service account's JSON (GCS), or the account's key (Azure).
    pub credentials_file: Option<PathBuf>,
    /// The section of that file, or of the usual one (S3).
    pub profile: Option<String>,
    /// Id of the access key (S3), or name of the account (Azure).
    pub access_key_id: Option<String>,
    /// The key itself.
    pub secret_access_key: Option<Hidden>,
    /// What belongs to a key that is valid for a while (S3).
    pub session_token: Option<Hidden>,
    /// Name of the storage account (Azure).
    pub account: Option<String>,
    /// Bytes that are sent a second at most.
    #[serde(deserialize_with = "bytes")]
    pub upload: Option<u64>,
    /// Bytes that are received a second at most.
    #[serde(deserialize_with = "bytes")]
    pub download: Option<u64>,
    /// Requests a second at most.
    pub requests: Option<u64>,
}

impl RemoteSettings {
    fn has_secrets(&self) -> bool {
        self.secret_access_key.is_some() || self.session_token.is_some()
    }
}

/// All remotes with names.
#[derive(Clone, Debug, Default)]
pub struct Remotes {
    named: BTreeMap<String, RemoteSettings>,
}

impl Remotes {
    /// Where the file is, and whether somebody has said so.
    pub fn path() -> (PathBuf, bool) {
        path_of(VARIABLE, PATH)
    }

    /// Reads the file; without one, there are no names.
    ///
    /// # Errors
    /// A file that cannot be read, is readable by others although it has secrets in it, or has in it what is not understood; in a line, with
    /// the path, and without a secret.
    pub fn load() -> Result<Self, String> {
        match Self::path() {
            (path, false) if is_missing(&path) => Ok(Self::default()),
            (path, _) => Self::load_from(&path),
        }
    }

    /// Reads a file that must be there.
    ///
    /// # Errors
    /// As [`Remotes::load`].
    pub fn load_from(path: &Path) -> Result<Self, String> {
        let with_path = |e: String| format!("{}: {e}", path.display());
        let file = open_linked(path).map_err(|e| with_path(e.to_string()))?;
        let about = file.metadata().map_err(|e| with_path(e.to_string()))?;
        let mut text = Zeroizing::new(String::new());
        file.take(BYTES_MAX).read_to_string(&mut text).map_err(|e| with_path(e.to_string()))?;
        let remotes = Self::parse(&text).map_err(with_path)?;
        if remotes.named.values().any(RemoteSettings::has_secrets) {
            may_hold_secrets(about.mode(), about.uid()).map_err(with_path)?;
        }
        Ok(remotes)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Remotes::load`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let named: BTreeMap<String, Spanned<RemoteSettings>> = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            // What the parser says of a value has the value in it.
            let why = match e.message() {
                unknown if unknown.starts_with("unknown field ") => explained(unknown),
                missing if missing.starts_with("invalid type") || missing.starts_with("unknown variant") => {
                    "the value is of the wrong kind".into()
                }
                other if other.contains("is not a size") => explained(other),
                _ => "this is invalid TOML, or not what is expected here".to_owned(),
            };
            format!("line {line}: {why}")
        })?;
        for (name, settings) in &named {
            let line = line_of(text, settings.span().start);
            if !is_remote_name(name) {
                return Err(format!(
                    "line {line}: {name:?} is not a valid name of a remote: write letters, digits, \"-\" and \"_\""
                ));
            }
            if settings.get_ref().url.is_none() {
                return Err(format!("line {line}: the remote {name:?} has no url"));
            }
        }
        Ok(Self { named: named.into_iter().map(|(name, settings)| (name, settings.into_inner())).collect() })
    }

    /// The remote of this name.
    pub fn get(&self, name: &str) -> Option<&RemoteSettings> {
        self.named.get(name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

/// Whether a remote can have this name.
pub fn is_remote_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Whether a file of this mode and owner may have secrets in it.
///
/// # Errors
/// Why not.
pub fn may_hold_secrets(mode: u32, owner: u32) -> Result<(), String> {
    let user = Uid::effective().as_raw();
    if mode & 0o077 != 0 {
        return Err(format!(
            "it has secrets in it, and others may read it (mode {:03o}): chmod 600",
            mode & 0o777
        ));
    }
    if owner != 0 && owner != user {
        return Err(format!(
            "it has secrets in it, and belongs to user {owner}, who is neither root nor the one who reads it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "[offsite]\nurl = \"s3://b/p\"\nsecret-access-key = \"hunter2\"\nupload = \"50M\"\n";

    #[test]
    fn a_remote_is_read_and_its_secret_not_shown() {
        let remotes = Remotes::parse(TEXT).unwrap();
        let offsite = remotes.get("offsite").unwrap();
        assert_eq!((offsite.url.as_deref(), offsite.upload), (Some("s3://b/p"), Some(50 << 20)));
        assert_eq!(offsite.secret_access_key.as_ref().unwrap().reveal(), "hunter2");
        assert!(!format!("{remotes:?}").contains("hunter2"));
        assert_eq!(remotes.names().collect::<Vec<_>>(), ["offsite"]);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line_and_no_secret() {
        for (text, expected) in [
            (
                "[a]\nurl = \"s3://b\"\nsecret-acces-key = \"hunter2\"\n",
                "line 3: the key \"secret-acces-key\" is unknown; did you mean \"secret-access-key\"?",
            ),
            ("[a]\nurl = \"s3://b\"\nregion = 7\n", "line 3: the value is of the wrong kind"),
            ("[a]\nurl = \"s3://b\"\nsecret-access-key = [\"hunter2\"]\n", "line 3: "),
            ("[a]\nurl = \"s3://b\"\nsecret-access-key = \"hunter2\n", "line 3: "),
            ("[a]\nurl = \"s3://b\"\nupload = \"much\"\n", "line 3: "),
            ("[a]\nurl = \"s3://b\"\ncredentials = \"hunter2\"\n", "line 3: "),
            ("[a]\nregion = \"x\"\n", "line 1: the remote \"a\" has no url"),
            ("[\"a/b\"]\nurl = \"s3://b\"\n", "line 1: \"a/b\" is not a valid name of a remote"),
            ("a = \"hunter2\"\n", "line 1: "),
        ] {
            let error = Remotes::parse(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_with_secrets_is_its_owners_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("remotes.toml");
        let with_mode = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            Remotes::load_from(&path)
        };
        assert!(with_mode(TEXT, 0o600).is_ok());
        assert!(with_mode("[a]\nurl = \"s3://b\"\n", 0o644).is_ok());
        for mode in [0o640, 0o604, 0o644] {
            assert!(with_mode(TEXT, mode).unwrap_err().contains("chmod 600"));
        }
    }
}
