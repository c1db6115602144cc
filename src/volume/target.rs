//! What a command is about: a volume, or one of its snapshots.

use super::error::{Result, VolumeError};
use crate::exit_code::Exit;
use crate::root::check_name;

/// `VOLUME` or `VOLUME@SNAPSHOT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The volume.
    pub volume: String,
    /// The snapshot, if one is meant.
    pub snapshot: Option<String>,
}

impl Target {
    /// Reads `VOLUME` or `VOLUME@SNAPSHOT`.
    ///
    /// # Errors
    /// `Usage` for names that cannot be.
    pub fn parse(text: &str) -> Result<Self> {
        let (volume, snapshot) = match text.split_once('@') {
            Some((volume, snapshot)) => (volume, Some(snapshot.to_owned())),
            None => (text, None),
        };
        check_name(volume).map_err(|e| VolumeError::new(Exit::Usage, e))?;
        if let Some(snapshot) = &snapshot {
            check_snapshot(snapshot)?;
        }
        Ok(Self { volume: volume.to_owned(), snapshot })
    }

    /// Reads `VOLUME@SNAPSHOT`.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn parse_snapshot(text: &str) -> Result<(String, String)> {
        match Self::parse(text)? {
            Self { volume, snapshot: Some(snapshot) } => Ok((volume, snapshot)),
            Self { volume, snapshot: None } => Err(VolumeError::new(
                Exit::Usage,
                format!("{volume:?} does not name a snapshot; write it as {volume}@SNAPSHOT"),
            )),
        }
    }
}

/// There is no snapshot of that name.
pub(super) fn no_snapshot(volume: &str, name: &str) -> VolumeError {
    VolumeError::new(
        Exit::NoVolume,
        format!("there is no snapshot {volume}@{name}; `larder snapshot ls {volume}` lists its snapshots"),
    )
}

/// Checks the tag of a hold: it is a name as that of a snapshot.
///
/// # Errors
/// `Usage` for one that cannot be.
pub fn check_tag(tag: &str) -> Result<()> {
    check_name(tag).map_err(|_| {
        VolumeError::new(
            Exit::Usage,
            format!(
                "{tag:?} is not a valid tag of a hold: tags are made of letters, digits, '_', '.' and '-', begin with a letter or digit, \
                 and have up to 128 bytes"
            ),
        )
    })
}

/// Checks the name of a snapshot.
///
/// # Errors
/// `Usage` for one that cannot be.
pub(super) fn check_snapshot(name: &str) -> Result<()> {
    let what = match name.split_once('@') {
        Some(_) => "a snapshot cannot have snapshots of its own",
        None if check_name(name).is_ok() => return Ok(()),
        None => {
            "names are made of letters, digits, '_', '.' and '-', begin with a letter or digit, and are at most 128 bytes long"
        }
    };
    Err(VolumeError::new(Exit::Usage, format!("{name:?} is not a valid snapshot name: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_or_refused() {
        let target = |volume: &str, snapshot: Option<&str>| Target {
            volume: volume.into(),
            snapshot: snapshot.map(str::to_owned),
        };
        assert_eq!(Target::parse("db").unwrap(), target("db", None));
        assert_eq!(Target::parse("db@monday").unwrap(), target("db", Some("monday")));
        for bad in ["", "@a", "db@", "db@a@b", "db@../x", "db@a b", "a/b@c"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        assert!(Target::parse_snapshot("db").unwrap_err().message.contains("db@SNAPSHOT"));
    }
}
