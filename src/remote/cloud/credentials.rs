//! Credentials in files.

use crate::backing::open_linked;
use crate::config::may_hold_secrets;
use async_trait::async_trait;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, StaticCredentialProvider};
use parking_lot::Mutex;
use std::env;
use std::fmt;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

const BYTES_MAX: u64 = 1 << 20;

/// The directory of the user who runs this.
pub(super) fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Where the tools of AWS look for credentials.
pub(super) fn usual_aws_file() -> Option<PathBuf> {
    let named = env::var_os("AWS_SHARED_CREDENTIALS_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| home().map(|home| home.join(".aws/credentials")))
}

/// Credentials that stay as they are.
pub(super) fn fixed(id: &str, secret: &str, token: Option<&str>) -> AwsCredentialProvider {
    let credential =
        AwsCredential { key_id: id.into(), secret_key: secret.into(), token: token.map(Into::into) };
    Arc::new(StaticCredentialProvider::new(credential))
}

fn open(path: &Path) -> Result<(std::fs::File, Metadata), String> {
    let with_path = |e: String| format!("{}: {e}", path.display());
    let file = open_linked(path).map_err(|e| with_path(e.to_string()))?;
    let about = file.metadata().map_err(|e| with_path(e.to_string()))?;
    may_hold_secrets(about.mode(), about.uid()).map_err(with_path)?;
    Ok((file, about))
}

/// That a file with secrets can be read, and by nobody else.
pub(super) fn may_be_read(path: &Path) -> Result<(), String> {
    open(path).map(|_| ())
}

/// The contents of such a file.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>, String> {
    let (file, _) = open(path)?;
    let mut text = Zeroizing::new(String::new());
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text)
}

/// Tells whether a file is still the one that was read.
type Version = (u64, u64, i64, i64);

fn version(about: &Metadata) -> Version {
    (about.ino(), about.len(), about.mtime(), about.mtime_nsec())
}

/// A file as `~/.aws/credentials`, which is read again when it has changed: keys are exchanged while volumes are mounted.
pub(super) struct AwsFile {
    path: PathBuf,
    profile: String,
    read: Mutex<Option<(Version, Arc<AwsCredential>)>>,
}

impl fmt::Debug for AwsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl AwsFile {
    /// The credentials of a section of a file, which must have them.
    pub(super) fn open(path: &Path, profile: &str) -> Result<Self, String> {
        let file = Self { path: path.into(), profile: profile.into(), read: Mutex::default() };
        file.current().map(|_| file)
    }

    fn current(&self) -> Result<Arc<AwsCredential>, String> {
        let now = version(&open(&self.path)?.1);
        let mut read = self.read.lock();
        if let Some((before, credential)) = &*read
            && *before == now
        {
            return Ok(Arc::clone(credential));
        }
        let text = read_secret(&self.path)?;
        let found = section(&text, &self.profile);
        let credential = Arc::new(found.ok_or_else(|| {
            format!(
                "{}: there is no section [{}] with aws_access_key_id and aws_secret_access_key",
                self.path.display(),
                self.profile
            )
        })?);
        *read = Some((now, Arc::clone(&credential)));
        Ok(credential)
    }
}

#[async_trait]
impl CredentialProvider for AwsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current().map_err(|e| object_store::Error::Unauthenticated {
            path: self.path.display().to_string(),
            source: e.into(),
        })
    }
}

/// The credentials of a section of an INI file.
fn section(text: &str, name: &str) -> Option<AwsCredential> {
    let (mut inside, mut id, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = header.trim() == name;
        } else if inside && let Some((key, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(AwsCredential { key_id: id?, secret_key: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=hunter2\n\n[other]\n\
                        aws_access_key_id=B\naws_secret_access_key = b = c\naws_session_token = t\n[half]\naws_access_key_id=C\n";

    #[test]
    fn a_section_is_found() {
        let found = section(TEXT, "default").unwrap();
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token), ("A", "hunter2", None));
        let found = section(TEXT, "other").unwrap();
        assert_eq!((found.secret_key.as_str(), found.token.as_deref()), ("b = c", Some("t")));
        assert!(section(TEXT, "half").is_none() && section(TEXT, "none").is_none());
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("credentials");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        write(TEXT, 0o644);
        assert!(AwsFile::open(&path, "default").unwrap_err().contains("chmod 600"));
        write(TEXT, 0o600);
        let file = AwsFile::open(&path, "default").unwrap();
        assert!(!format!("{file:?}").contains("hunter2"));
        write(&TEXT.replace("hunter2", "a new one"), 0o600);
        assert_eq!(file.current().unwrap().secret_key, "a new one");
        assert!(!AwsFile::open(&path, "half").unwrap_err().contains("hunter2"));
    }
}
