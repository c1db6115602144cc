//! Where a remote is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///directory`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Kinds of object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, and what speaks its protocol: Ceph, MinIO, R2, and many others.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A directory, which may be on a file system that other hosts mount, too.
    File,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::S3, Self::Gs, Self::Az, Self::File];

    /// What its URLs begin with.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::File => "file",
        }
    }
}

/// The URL of a remote. It has no credentials in it, so that it can be shown: where one would put them is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl {
    scheme: Scheme,
    /// Bucket or container; empty for a directory.
    bucket: String,
    /// Components between `/`, without one at either end; of a directory, its path without the first `/`.
    prefix: String,
}

const SHAPES: &str = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY";

impl RemoteUrl {
    /// What speaks to it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket or container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the names of its objects begin with, without a `/` at the end; empty: nothing.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The directory of a `file://` URL.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from("/").join(&self.prefix)
    }

    /// Whether a text is meant as a URL, and not as the name of a remote.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// The URL with one more component.
    ///
    /// # Errors
    /// When that cannot be one.
    pub fn join(&self, component: &str) -> Result<Self, String> {
        format!("{self}/{component}").parse()
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl FromStr for RemoteUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A text that is refused may have a secret in it, and is not repeated.
        let bad = |why: String| format!("the URL of the remote {why}; write {SHAPES}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("has no \"://\"".into()))?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.name() == scheme);
        let scheme = scheme.ok_or_else(|| bad("begins with an unknown scheme".into()))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme == Scheme::File {
            if !bucket.is_empty() || prefix.is_empty() {
                return Err(bad("has no absolute path".into()));
            }
        } else if bucket.contains('@') || bucket.contains(':') {
            let bad = bad("has credentials or a port in it".into());
            return Err(format!(
                "{bad}, and put credentials and the endpoint into the environment or /etc/larder/remotes.toml"
            ));
        } else if bucket.is_empty()
            || bucket.len() > 255
            || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            return Err(bad("names no bucket".into()));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        for component in prefix.split('/').filter(|_| !prefix.is_empty()) {
            if component.is_empty() || component == "." || component == ".." {
                return Err(bad("has an empty component, or \".\" or \"..\"".into()));
            }
            let plain = |c: char| match scheme {
                Scheme::File => !c.is_control(),
                _ => c.is_ascii_alphanumeric() || "-_.~+=,@".contains(c),
            };
            if let Some(c) = component.chars().find(|&c| !plain(c)) {
                return Err(bad(format!("has {c:?} in it")));
            }
        }
        if prefix.len() > 400 {
            return Err(bad("is too long".into()));
        }
        Ok(Self { scheme, bucket: bucket.into(), prefix: prefix.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_shown() {
        for text in [
            "s3://bucket",
            "s3://my.bucket/a/b",
            "gs://b/x",
            "az://c/x=y",
            "file:///srv/remote",
            "file:///a b/ü",
        ] {
            assert_eq!(text.parse::<RemoteUrl>().unwrap().to_string(), text);
        }
        let url: RemoteUrl = "s3://bucket/prefix/".parse().unwrap();
        assert_eq!((url.bucket(), url.prefix()), ("bucket", "prefix"));
        assert_eq!(url.join("db").unwrap().to_string(), "s3://bucket/prefix/db");
        assert_eq!("file:///a/b".parse::<RemoteUrl>().unwrap().directory(), PathBuf::from("/a/b"));
        assert!(RemoteUrl::is_meant("s3://x") && !RemoteUrl::is_meant("offsite"));
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        for text in [
            "",
            "bucket",
            "http://x/y",
            "s3:/x",
            "s3://",
            "s3:///x",
            "s3://b//x",
            "s3://b/../x",
            "s3://b/a?X-Amz-Signature=hunter2",
            "s3://key:hunter2@bucket/x",
            "s3://host:9000/x",
            "file://",
            "file://relative",
            "file:///",
            "file:///a/../b",
            "S3://b",
            "s3://b/a#hunter2",
            "s3://b/a%20b",
            "s3://bu cket",
            "file:///a\nb",
        ] {
            let error = text.parse::<RemoteUrl>().unwrap_err();
            assert!(!error.contains("hunter2") && error.contains("file:///DIRECTORY"), "{text:?}: {error}");
        }
        assert!(format!("s3://b/{}", "x/".repeat(300)).parse::<RemoteUrl>().is_err());
        assert!("s3://b/x".parse::<RemoteUrl>().unwrap().join("..").is_err());
    }
}
