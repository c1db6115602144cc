//! `/etc/larder/larder.toml`: what the administrator of a host demands of all volumes, whoever makes or mounts them.

use crate::backing::open_linked;
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;

/// Where it is, unless the variable of the environment says otherwise. Without the file, nothing is demanded.
const PATH: &str = "/etc/larder/larder.toml";
const VARIABLE: &str = "LARDER_CONFIG";
/// Longer ones are some other file.
const BYTES_MAX: u64 = 1 << 20;

/// The configuration of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    require_encryption: Volumes,
}

/// Volumes: `true` for all, `false` for none, or a list of names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "write true, false, or a list of names of volumes")]
enum Volumes {
    All(bool),
    Named(Vec<String>),
}

impl Default for Volumes {
    fn default() -> Self {
        Self::All(false)
    }
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// A file that cannot be read, or holds what is not understood: a demand that was misspelt must not go unheard. With the
    /// path, in a line.
    pub fn load() -> Result<Self, String> {
        let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let must_exist = named.is_some();
        let path = PathBuf::from(named.unwrap_or_else(|| OsString::from(PATH)));
        let mut text = String::new();
        let read = open_linked(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(Self::default()),
            Err(e) => return Err(format!("{}: {e}", path.display())),
            Ok(_) => {}
        }
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| {
            let line =
                e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}: {}", e.message())
        })
    }

    /// Whether a volume must be encrypted.
    pub fn requires_encryption(&self, volume: &str) -> bool {
        match &self.require_encryption {
            Volumes::All(all) => *all,
            Volumes::Named(names) => names.iter().any(|name| name == volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_demanded_is_heard_and_what_is_misspelt_refused() {
        let requires = |text: &str, volume: &str| Config::parse(text).unwrap().requires_encryption(volume);
        assert!(!requires("", "db") && !requires("require-encryption = false", "db"));
        assert!(requires("# all\nrequire-encryption = true\n", "db"));
        assert!(requires("require-encryption = [\"db\", \"web\"]", "db"));
        assert!(!requires("require-encryption = [\"db\", \"web\"]", "d"));
        for bad in ["require-encrytion = true", "require-encryption = 1", "require-encryption", "a = [", "\0"]
        {
            let error = Config::parse(bad).unwrap_err();
            assert!(error.starts_with("line 1: ") && !error.contains('\n'), "{error}");
        }
    }
}
