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
    /// The options, with commas between them.
    pub options: String,
}

impl FstabLine {
    /// Whether it mounts a volume of ours, or one of its snapshots.
    pub fn is_larder(&self) -> bool {
        matches!(self.kind.as_str(), "larder" | "fuse.larder")
    }

    /// Whether what it mounts is to be there when the host has booted: not on demand, and not when somebody first looks at it.
    pub fn is_at_boot(&self) -> bool {
        !self.options.split(',').any(|option| matches!(option, "noauto" | "x-systemd.automount"))
    }
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
            options: fields.next().unwrap_or_default().to_owned(),
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
        assert!(lines[0].is_larder() && lines[0].is_at_boot() && lines[0].options == "noatime");
        for options in ["noauto", "nofail,noauto", "x-systemd.automount"] {
            assert!(!fstab_lines(&format!("a /a larder {options}")).next().unwrap().is_at_boot());
        }
        assert!(fstab_lines("a /a fuse.larder").next().unwrap().is_at_boot());
    }
}
