//! Lines of fstab(5).

use super::table::unescape;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What a line says is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FstabLine {
    /// The device, or what else a file system takes for one.
    pub source: OsString,
    /// Where.
    pub dir: PathBuf,
    /// The type of the file system.
    pub kind: String,
}

/// The lines of a file in the format of fstab(5) that mount something. What cannot be understood is none.
pub fn fstab_lines(text: &str) -> impl Iterator<Item = FstabLine> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (source, dir, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let plain = |field: &str| OsString::from_vec(unescape(field.as_bytes()));
        (kind != "swap").then(|| FstabLine {
            source: plain(source),
            dir: PathBuf::from(plain(dir)),
            kind: kind.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn lines_that_mount_something_are_read() {
        let text = "# db /old larder\n\n /dev/sdb2 none swap sw\n  #x /x ext4\ndb\t/mnt/with\\040space larder noatime 0 0\nbroken /x\n";
        let lines: Vec<_> = fstab_lines(text).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((lines[0].source.to_str(), lines[0].kind.as_str()), (Some("db"), "larder"));
        assert_eq!(lines[0].dir, Path::new("/mnt/with space"));
    }
}
