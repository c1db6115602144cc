//! `/etc/larder/larder.toml`: what the administrator of a host wants of all volumes, whoever makes or mounts them.
//!
//! What is asked for on the command line comes first, then the environment, then what a volume has of its own, then this file, then
//! what is built in. It is read anew for each thing that is done: who changes it restarts nothing.

mod engines;
mod policies;
mod remotes;

pub use engines::{DockerSettings, PodmanSettings, starter_text};
pub use remotes::{CredentialSource, Hidden, RemoteSettings, Remotes, is_remote_name, may_hold_secrets};

use crate::backing::open_linked;
use crate::nearest::nearest;
use crate::period;
use crate::printable::cause;
use crate::root::{check_name, is_ordinary_user};
use crate::size;
use policies::Policies;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Spanned, Value};

/// Where it is, unless the variable of the environment says otherwise. Without the file, nothing is demanded.
const PATH: &str = "/etc/larder/larder.toml";
const VARIABLE: &str = "LARDER_CONFIG";
/// Longer ones are some other file.
const BYTES_MAX: u64 = 1 << 20;

/// How long removed volumes are kept.
const TRASH: Duration = Duration::from_secs(24 * 3600);
/// The trash is given back when less is free: so much of the disk, and no more than that.
const RESERVE_PART: u64 = 20;
const RESERVE_MAX: u64 = 10 << 30;

/// What the caches of all servers of a root take together, of the memory of the host.
const CACHES: Amount = Amount::Percent(25);
/// A size below this was meant as something else: `cache-total = 25`.
const CACHES_MIN: u64 = 1 << 20;

/// So much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    /// A part of what there is.
    Percent(u64),
    Bytes(u64),
}

impl Amount {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!("{text:?} {why}; write a part of the memory, such as \"25%\", or a size, such as \"2G\"")
        };
        if let Some(number) = text.trim().strip_suffix('%') {
            return match number.trim().parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(bad("is not a whole number from 0% to 100%")),
            };
        }
        match size::parse(text) {
            Ok(bytes @ 1..CACHES_MIN) => Err(bad(&format!("is {bytes} bytes, too little for caches"))),
            Ok(bytes) => Ok(Self::Bytes(bytes)),
            Err(_) => Err(bad("is not an amount of memory")),
        }
    }

    /// Of `all` bytes of memory.
    fn of(self, all: u64) -> u64 {
        match self {
            Self::Percent(percent) => (u128::from(all) * u128::from(percent) / 100) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn amount<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Amount>, D::Error> {
    text(from, Amount::parse)
}

fn written_amount<S: Serializer>(amount: &Option<Amount>, to: S) -> Result<S::Ok, S::Error> {
    match amount.unwrap_or(CACHES) {
        Amount::Percent(percent) => to.serialize_str(&format!("{percent}%")),
        Amount::Bytes(bytes) => to.serialize_str(&size::format(bytes)),
    }
}

/// The configuration of a host. Its fields are the keys of the file, in kebab case. Written out, it is what is in force of
/// those that have a value of their own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    #[serde(skip_serializing)]
    root: Option<Spanned<PathBuf>>,
    require_encryption: Volumes,
    #[serde(deserialize_with = "time", serialize_with = "written_time")]
    trash: Option<Duration>,
    #[serde(deserialize_with = "bytes", serialize_with = "written_reserve")]
    trash_reserve: Option<u64>,
    #[serde(deserialize_with = "amount", serialize_with = "written_amount")]
    cache_total: Option<Amount>,
    #[serde(skip_serializing)]
    policies: Policies,
    #[serde(skip_serializing)]
    create: Table,
    #[serde(skip_serializing)]
    mount: Table,
    /// What it was read from, to tell the line of what makes no sense.
    #[serde(skip)]
    text: String,
}

fn written_time<S: Serializer>(period: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&period::format(period.unwrap_or(TRASH)))
}

fn written_reserve<S: Serializer>(bytes: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    let usual = || format!("{}%, at most {}", 100 / RESERVE_PART, size::format(RESERVE_MAX));
    to.serialize_str(&bytes.map_or_else(usual, size::format_exact))
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    text(from, period::parse)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    text(from, size::parse)
}

/// A value that is written as text, or as a number: `trash = 0`.
fn text<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "write it in quotation marks, with its unit")]
    enum Written {
        Text(String),
        Number(u64),
    }
    let text = match Written::deserialize(from)? {
        Written::Text(text) => text,
        Written::Number(number) => number.to_string(),
    };
    parse(&text).map(Some).map_err(de::Error::custom)
}

/// Volumes: `true` for all, `false` for none, or a list of names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
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

/// Options by name. Which there are, whoever uses them knows.
type Table = BTreeMap<String, Spanned<Value>>;

/// An option as a table of the file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name; of one in a table of its own, with that before it: `label.app`.
    pub name: String,
    /// Its value, as one would give it on the command line.
    pub value: String,
    /// The line of the file that it is in, the first being 1.
    pub line: usize,
}

/// Where a file is that a variable of the environment names, or else lies at `usual`; and whether somebody has said so.
fn path_of(variable: &str, usual: &str) -> (PathBuf, bool) {
    let named = std::env::var_os(variable).filter(|path| !path.is_empty());
    let is_named = named.is_some();
    (PathBuf::from(named.unwrap_or_else(|| OsString::from(usual))), is_named)
}

/// Whether nothing is there.
fn is_missing(path: &Path) -> bool {
    matches!(path.symlink_metadata(), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

impl Config {
    /// Where the configuration is, and whether somebody has said so.
    pub fn path() -> (PathBuf, bool) {
        path_of(VARIABLE, PATH)
    }

    /// Reads the configuration. One that an ordinary user may not read is not for that user: its directory can be closed, for key files.
    ///
    /// # Errors
    /// A file that cannot be read, or holds what is not understood: a demand that was misspelt must not go unheard. With the
    /// path, in a line.
    pub fn load() -> Result<Self, String> {
        match Self::path() {
            (path, false) if is_missing(&path) => Ok(Self::default()),
            (path, false)
                if is_ordinary_user()
                    && matches!(open_linked(&path), Err(e) if e.kind() == io::ErrorKind::PermissionDenied) =>
            {
                Ok(Self::default())
            }
            (path, true) if is_missing(&path) => Err(format!(
                "{}, which {VARIABLE} names, does not exist; unset {VARIABLE}, or name a file that does",
                path.display()
            )),
            (path, _) => Self::load_from(&path),
        }
    }

    /// The root that the file names, for whoever has to go on though it cannot be used: what is wrong with the rest of it is passed by. None: it
    /// names none, or cannot be read.
    ///
    /// # Errors
    /// When the line that names it is not understood.
    pub fn root_in_spite() -> Result<Option<PathBuf>, String> {
        let (path, _) = Self::path();
        let mut text = Vec::new();
        if open_linked(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text)).is_err() {
            return Ok(None);
        }
        root_in(&String::from_utf8_lossy(&text)).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads a file that must be there.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let read = open_linked(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        read.map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => "it is not text in UTF-8".to_owned(),
            _ => cause(&e),
        })
        .and_then(|_| Self::parse(&text))
        .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            let key =
                text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
            match (explained(e.message()), key) {
                (what, Some(key)) if what.starts_with("write ") => format!("line {line}: {key}: {what}"),
                (what, _) => format!("line {line}: {what}"),
            }
        })?;
        match &config.root {
            Some(root) if !root.get_ref().is_absolute() => {
                let (line, root) = (line_of(text, root.span().start), root.get_ref());
                Err(format!("line {line}: root = {root:?}: write an absolute path, such as /var/lib/larder"))
            }
            _ => config.must_name_volumes(text).map(|()| Self { text: text.to_owned(), ..config }),
        }
    }

    /// Refuses a demand on what can be no volume's name: it was misspelt, and would not be heard.
    fn must_name_volumes(&self, text: &str) -> Result<(), String> {
        let Volumes::Named(names) = &self.require_encryption else { return Ok(()) };
        let Some(e) = names.iter().find_map(|name| check_name(name).err()) else { return Ok(()) };
        let at = text.lines().position(|line| line.trim_start().starts_with("require-encryption"));
        Err(format!("line {}: require-encryption: {e}", at.map_or(1, |at| at + 1)))
    }

    /// The directory that holds everything, if it says so.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_ref().map(|root| root.get_ref().as_path())
    }

    /// How long a removed volume is kept in the trash, unless its own options say otherwise. Zero: not at all.
    pub fn trash(&self) -> Duration {
        self.trash.unwrap_or(TRASH)
    }

    /// How many bytes have to be free on a disk of `total` bytes: when there are fewer, what is in the trash goes.
    pub fn trash_reserve(&self, total: u64) -> u64 {
        self.trash_reserve.unwrap_or((total / RESERVE_PART).min(RESERVE_MAX))
    }

    /// What the caches of all servers of a root may take together, in bytes, of `memory` bytes that there are.
    pub fn cache_total(&self, memory: u64) -> u64 {
        self.cache_total.unwrap_or(CACHES).of(memory)
    }

    /// The line of the file that says something of a key, the first being 1; none if no line does. Of a table, it is where that begins.
    pub fn line_of_key(&self, key: &str) -> Option<usize> {
        // It was understood when it was read.
        let all: Table = toml::from_str(&self.text).ok()?;
        all.get(key).map(|value| line_of(&self.text, value.span().start))
    }

    /// Whether a volume must be encrypted.
    pub fn requires_encryption(&self, volume: &str) -> bool {
        match &self.require_encryption {
            Volumes::All(all) => *all,
            Volumes::Named(names) => names.iter().any(|name| name == volume),
        }
    }

    /// Whether all volumes must be encrypted.
    pub fn requires_encryption_of_all(&self) -> bool {
        self.require_encryption == Volumes::All(true)
    }

    /// What new volumes are like where nothing else is said.
    ///
    /// # Errors
    /// A value that is none of an option, with its line.
    pub fn create(&self) -> Result<Vec<Setting>, String> {
        self.settings(&self.create)
    }

    /// How volumes are mounted where nothing else is said.
    ///
    /// # Errors
    /// As [`Config::create`].
    pub fn mount(&self) -> Result<Vec<Setting>, String> {
        self.settings(&self.mount)
    }

    fn settings(&self, table: &Table) -> Result<Vec<Setting>, String> {
        let mut settings = Vec::new();
        for (name, value) in table {
            let line = line_of(&self.text, value.span().start);
            let mut take = |name: String, value: &Value| match text_of(value) {
                Some(value) => {
                    settings.push(Setting { name, value, line });
                    Ok(())
                }
                None => Err(format!("line {line}: {name:?}: write a text, a whole number, true or false")),
            };
            match value.get_ref() {
                Value::Table(inner) => {
                    inner.iter().try_for_each(|(key, value)| take(format!("{name}.{key}"), value))?;
                }
                value => take(name.clone(), value)?,
            }
        }
        Ok(settings)
    }
}

/// The root that a text names by itself, whatever else is in it.
fn root_in(text: &str) -> Result<Option<PathBuf>, String> {
    let key =
        |line: &str| line.split_once('=').map(|(key, _)| key.trim().trim_matches(['"', '\'']).to_owned());
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.trim_start().starts_with('['));
    let named: Vec<(usize, &str)> = lines.filter(|(_, line)| key(line).as_deref() == Some("root")).collect();
    let root = |(at, line): &(usize, &str)| {
        let read = toml::from_str::<BTreeMap<String, PathBuf>>(line).ok();
        let root = read.and_then(|mut all| all.remove("root")).filter(|root| root.is_absolute());
        root.ok_or_else(|| format!("line {}: it is not known which root is meant", at + 1))
    };
    match named.as_slice() {
        [] => Ok(None),
        [one] => root(one).map(Some),
        [_, (at, _), ..] => Err(format!("line {}: it is not known which root is meant", at + 1)),
    }
}

/// The value of an option as one would give it on the command line.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(is) => Some(is.to_string()),
        _ => None,
    }
}

/// The number of the line that a byte of a text is in, the first being 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// A message of the parser's, as we would say it. Of a key that is not known, it names all there are; here, what was meant.
fn explained(message: &str) -> String {
    let Some(unknown) = message.strip_prefix("unknown field ") else {
        let types = message.strip_prefix("invalid type: ").and_then(|types| types.split_once(", expected "));
        return match types {
            Some((found, "a boolean")) => format!("write true or false, not the {found}"),
            Some((found, wanted)) => format!("write {wanted}, not the {found}"),
            None if message.starts_with("string values must be quoted") => {
                "write the text in quotation marks".to_owned()
            }
            None if message == "duplicate key" => "this key is given twice; remove one of the two".to_owned(),
            None => message.replace('\n', " "),
        };
    };
    let mut names = unknown.split('`').skip(1).step_by(2);
    let key = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    match nearest(key, known.iter().copied()) {
        Some(meant) => format!("the key {key:?} is unknown; did you mean {meant:?}?"),
        None => format!("the key {key:?} is unknown; the keys are {}", known.join(", ")),
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
        assert_eq!(Config::parse("").unwrap().trash(), Duration::from_secs(86_400));
        assert_eq!(Config::parse("trash = \"7d\"").unwrap().trash(), Duration::from_secs(604_800));
        assert_eq!(Config::parse("trash = 0").unwrap().trash(), Duration::ZERO);
        assert_eq!(Config::parse("").unwrap().trash_reserve(1 << 30), (1 << 30) / 20);
        assert_eq!(Config::parse("").unwrap().trash_reserve(1 << 50), 10 << 30);
        assert_eq!(Config::parse("trash-reserve = \"1G\"").unwrap().trash_reserve(1 << 50), 1 << 30);
        let caches = |text: &str| Config::parse(text).unwrap().cache_total(1 << 33);
        assert_eq!(caches(""), 1 << 31);
        assert_eq!(caches("cache-total = \"50%\""), 1 << 32);
        assert_eq!((caches("cache-total = \"0%\""), caches("cache-total = 0")), (0, 0));
        assert_eq!(caches("cache-total = \"1.5G\""), 3 << 29);
        for bad in [
            "cache-total = 25",
            "cache-total = \"25\"",
            "cache-total = \"101%\"",
            "cache-total = \"-1%\"",
            "cache-total = \"much\"",
            "cache-total = \"%\"",
            "trash = 24",
            "trash = \"soon\"",
            "trash = true",
            "trash-reserve = \"much\"",
            "require-encrytion = true",
            "require-encryption = 1",
            "require-encryption = [\"db\", \"a b\"]",
            "require-encryption = [\"web-*\"]",
            "require-encryption",
            "a = [",
            "\0",
        ] {
            let error = Config::parse(bad).unwrap_err();
            assert!(error.starts_with("line 1: ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_what_was_meant() {
        let error = |text: &str| Config::parse(text).unwrap_err();
        assert_eq!(
            error("# a comment\n\nrequire-encrytion = true\n"),
            "line 3: the key \"require-encrytion\" is unknown; did you mean \"require-encryption\"?"
        );
        let unlike = error("root = \"/a\"\ncolour = \"red\"\n");
        assert!(unlike.starts_with("line 2: the key \"colour\" is unknown; the keys are root, "), "{unlike}");
        assert!(error("\"a`b\\n\" = 1").starts_with("line 1: the key "));
        assert!(error("root = \"relative\"").contains("absolute"));
        assert_eq!(Config::parse("root = \"/srv/larder\"").unwrap().root(), Some(Path::new("/srv/larder")));
    }

    #[test]
    fn options_come_with_their_lines() {
        let config = Config::parse(
            "[create]\nsize = \"10G\"\ninodes = 1000\nlabel.app = \"shop\"\n\n[create.label]\n\n[mount]\nnoatime = true\n",
        );
        // A table is made in one place.
        assert!(config.unwrap_err().contains("line 6"));
        let config = Config::parse(
            "[mount]\nnoatime = true\n[create]\nsize = \"10G\"\ninodes = 1000\nlabel.app = \"shop\"\n",
        )
        .unwrap();
        let setting =
            |name: &str, value: &str, line| Setting { name: name.into(), value: value.into(), line };
        assert_eq!(
            config.create().unwrap(),
            [setting("inodes", "1000", 5), setting("label.app", "shop", 6), setting("size", "10G", 4)]
        );
        assert_eq!(config.mount().unwrap(), [setting("noatime", "true", 2)]);
        assert_eq!((config.line_of_key("create"), config.line_of_key("trash")), (Some(3), None));
        let config = Config::parse("# x\ntrash = \"24h\"\n\nrequire-encryption = [\n  \"db\",\n]\n").unwrap();
        assert_eq!(config.line_of_key("trash"), Some(2));
        assert_eq!(config.line_of_key("require-encryption"), Some(4));
        for bad in ["[create]\nsize = 1.5", "[create]\nsize = [1]", "[create]\nlabel.a.b = 1"] {
            let error = Config::parse(bad).unwrap().create().unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
        }
        assert!(Config::parse("create = 1").is_err());
    }

    #[test]
    fn the_root_is_found_in_a_file_that_cannot_be_used() {
        for (text, root) in [
            ("", None),
            ("trahs = \"1d\"\n[create]\nroot = \"/no\"", None),
            ("# root = \"/no\"\ntrahs = \"1d\"\n root= '/srv/a' # there\n", Some("/srv/a")),
            ("a = [\n\"root\" = \"/srv/a\"\n=", Some("/srv/a")),
        ] {
            assert_eq!(root_in(text), Ok(root.map(PathBuf::from)), "{text}");
        }
        for text in
            ["x\nroot = /srv/a", "x\nroot = \"here\"", "root = \"/a\"\nroot = \"/b\"", "x\nroot = \"/srv"]
        {
            assert!(root_in(text).unwrap_err().starts_with("line 2: "), "{text}");
        }
    }
}
