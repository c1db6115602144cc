//! Where secrets come from. Never from an argument or a variable of the environment: others can read those.

use super::record::{Place, Record, options_of, secrets_of};
use crate::backing::{OsDir, open_linked};
use crate::config::Config;
use crate::crypto::{KEY_FILE_MIN, Keyring, Keys, Secret, Subkeys, guard_process};
use crate::exit_code::Exit;
use crate::printable::cause;
use crate::remote::RemoteError;
use crate::root::Root;
use crate::store::{Header, StoreId};
use crate::volume::{Result, VolumeError, is_encrypted, key_slots, unlock};
use parking_lot::Mutex;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longer ones are some other file.
const SECRET_MAX: u64 = 64 << 10;

/// What opens an encrypted volume, or is to open it. If nothing is named, what systemd passes on is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// A file whose first line is the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// A file of random bytes.
    pub key_file: Option<PathBuf>,
    /// A file descriptor to read the passphrase from.
    pub passphrase_fd: Option<u32>,
    /// A command that prints what is used like a key file.
    pub key_command: Option<String>,
    /// Whether there may be somebody at a terminal to ask.
    pub ask: bool,
    /// What was read and typed so far.
    pub known: Known,
}

/// What was read, typed and derived so far: a pipe can be read only once, and nobody wants to type the same twice. Clones share it.
#[derive(Clone, Default)]
pub struct Known {
    all: Arc<Mutex<Opened>>,
    /// Nothing more is read or asked for: see [`Secrets::only_known`].
    is_complete: bool,
}

#[derive(Default)]
struct Opened {
    sources: Vec<(Source, Secret)>,
    /// With the part of the header that they were derived from: it can change.
    keys: Vec<(StoreId, Keyring, Vec<Subkeys>)>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

/// Where secrets come from does not depend on what was read already.
impl PartialEq for Known {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Known {}

impl Known {
    fn keys(&self, id: StoreId, header: Option<&Keyring>) -> Option<Vec<Subkeys>> {
        let all = self.all.lock();
        let found = all.keys.iter().find(|(store, of, _)| *store == id && Some(of) == header);
        found.map(|(_, _, keys)| keys.clone())
    }

    fn keep_keys(&self, id: StoreId, header: Keyring, keys: &[Subkeys]) {
        let mut all = self.all.lock();
        all.keys.retain(|(store, ..)| *store != id);
        all.keys.push((id, header, keys.to_vec()));
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    PassphraseFile(PathBuf),
    PassphraseFd(u32),
    KeyFile(PathBuf),
    KeyCommand(String),
}

fn no_secret(what: impl Into<String>) -> VolumeError {
    VolumeError::new(Exit::Secret, what)
}

fn read_from(mut from: impl Read, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    // Of this size from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
    from.by_ref()
        .take(SECRET_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| no_secret(format!("cannot read {what}: {}", cause(&e))))?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(no_secret(format!(
            "{what} is longer than {SECRET_MAX} bytes, the most that a secret may have"
        )));
    }
    Ok(bytes)
}

/// Opens a file that holds a secret: a regular one, because whoever can put something else in its place could make this process
/// wait forever. What the process was started with can be a pipe, if somebody is there who started it so: `<(pass show db)`.
fn open_secret(path: &Path, is_attended: bool) -> io::Result<File> {
    let is_inherited =
        path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    if is_attended && is_inherited { File::open(path) } else { open_linked(path) }
}

fn read_file(path: &Path, what: &str, is_attended: bool) -> Result<Zeroizing<Vec<u8>>> {
    let file = open_secret(path, is_attended);
    read_from(file.map_err(|e| no_secret(format!("cannot read {what}: {}", cause(&e))))?, what)
}

/// The first line.
fn passphrase(mut bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<Secret> {
    if let Some(end) = bytes.iter().position(|b| *b == b'\n') {
        bytes.truncate(end);
    }
    if bytes.is_empty() {
        return Err(no_secret(format!("{what} is empty, or its first line is")));
    }
    Ok(Secret::Passphrase(bytes))
}

fn key_file(bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<Secret> {
    if bytes.len() < KEY_FILE_MIN {
        return Err(no_secret(format!(
            "{what} has {} bytes, too few for a key file; `head -c 64 /dev/urandom` makes a good one",
            bytes.len()
        )));
    }
    Ok(Secret::KeyFile(bytes))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassphraseFile(path) => write!(f, "the passphrase file {}", path.display()),
            Self::PassphraseFd(fd) => write!(f, "file descriptor {fd}"),
            Self::KeyFile(path) => write!(f, "the key file {}", path.display()),
            Self::KeyCommand(command) => write!(f, "the output of the key command {command:?}"),
        }
    }
}

impl Source {
    /// `is_attended`: somebody has named it for this process, and waits for it.
    fn read(&self, is_attended: bool) -> Result<Secret> {
        let what = self.to_string();
        match self {
            Self::PassphraseFile(path) => passphrase(read_file(path, &what, is_attended)?, &what),
            Self::KeyFile(path) => key_file(read_file(path, &what, is_attended)?, &what),
            Self::PassphraseFd(fd) => {
                let bytes = read_file(Path::new(&format!("/dev/fd/{fd}")), &what, true)?;
                // The server, if one is started, is not to inherit it.
                if *fd > 2
                    && let Ok(fd) = i32::try_from(*fd)
                {
                    let _ = nix::unistd::close(fd);
                }
                passphrase(bytes, &what)
            }
            Self::KeyCommand(command) => {
                let failed = |why: String| no_secret(format!("the key command {command:?} failed: {why}"));
                let child = Command::new("/bin/sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn();
                let mut child = child.map_err(|e| failed(e.to_string()))?;
                let bytes = match child.stdout.take() {
                    Some(out) => read_from(out, &what),
                    None => Err(failed("it printed nothing".into())),
                };
                let status = child.wait().map_err(|e| failed(e.to_string()))?;
                if !status.success() {
                    return Err(failed(status.to_string()));
                }
                key_file(bytes?, &what)
            }
        }
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>> {
    let answer = rpassword::prompt_password(prompt).map(Zeroizing::new);
    let answer = answer.map_err(|e| no_secret(format!("cannot ask for a passphrase: {e}")))?;
    Ok(Zeroizing::new(answer.as_bytes().to_vec()))
}

pub(super) fn config() -> Result<Config> {
    Config::load()
        .map_err(|e| VolumeError::new(Exit::Usage, format!("the configuration cannot be used: {e}")))
}

/// Whether the configuration of the host demands that a volume is encrypted.
///
/// # Errors
/// `Usage` when it cannot be read.
pub(super) fn must_be_encrypted(name: &str) -> Result<bool> {
    Ok(config()?.requires_encryption(name))
}

/// What demands that, for a message: the key and its file.
pub(super) fn encryption_policy() -> String {
    format!("require-encryption in {}", Config::path().0.display())
}

/// Refuses to make a plain volume that must be encrypted.
///
/// # Errors
/// `Secret` if the configuration of the host demands encryption, or `Usage` when that cannot be read.
pub fn may_be_plain(name: &str) -> Result<()> {
    match must_be_encrypted(name)? {
        true => Err(no_secret(format!(
            "volume {name:?} must be encrypted, because {} demands it; give --encrypt (for containers, the option encrypt) and say where its secret is",
            encryption_policy()
        ))),
        false => Ok(()),
    }
}

/// What systemd passes on to a service: `LoadCredential=larder.NAME.key:/path`.
fn credential(name: &str) -> Option<Source> {
    let dir = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    let file = |ending: &str| Some(dir.join(format!("larder.{name}.{ending}"))).filter(|path| path.exists());
    file("key").map(Source::KeyFile).or_else(|| file("passphrase").map(Source::PassphraseFile))
}

impl Secrets {
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        sources.extend(self.passphrase_file.clone().map(Source::PassphraseFile));
        sources.extend(self.passphrase_fd.map(Source::PassphraseFd));
        sources.extend(self.key_file.clone().map(Source::KeyFile));
        sources.extend(self.key_command.clone().map(Source::KeyCommand));
        sources
    }

    /// Reads a source, if that was not done before.
    fn read(&self, source: &Source) -> Result<Secret> {
        let of_source = |(of, _): &&(Source, Secret)| of == source;
        let known = self.known.all.lock().sources.iter().find(of_source).map(|(_, secret)| secret.clone());
        if let Some(secret) = known {
            return Ok(secret);
        }
        let secret = source.read(self.ask)?;
        self.known.all.lock().sources.push((source.clone(), secret.clone()));
        Ok(secret)
    }

    /// The same, for whoever keeps others waiting: only stores whose keys are known already are opened with it. Others are an error with the
    /// exit code `Secret`.
    #[must_use]
    pub(super) fn only_known(&self) -> Self {
        Self { known: Known { is_complete: true, ..self.known.clone() }, ..self.clone() }
    }

    /// These secrets instead, with what is known already.
    #[must_use]
    pub(super) fn or(&self, other: Self) -> Self {
        Self { known: self.known.clone(), ..other }
    }

    /// Whether one was named.
    pub fn is_given(&self) -> bool {
        !self.sources().is_empty()
    }

    /// The one secret that opens volume `name`.
    ///
    /// # Errors
    /// `Secret` when there is none, or it cannot be read.
    pub fn secret(&self, name: &str) -> Result<Secret> {
        guard_process();
        let mut sources = self.sources();
        if sources.is_empty() {
            sources.extend(credential(name));
        }
        match sources.as_slice() {
            [one] => self.read(one).map_err(|e| e.context(&format!("cannot open volume {name:?}"))),
            [] if self.ask && std::io::stdin().is_terminal() => {
                passphrase(ask(&format!("Passphrase of volume {name:?}: "))?, "the passphrase that was typed")
            }
            [] if !self.ask => Err(no_secret(format!(
                "volume {name:?} is encrypted; say where its secret is, with key-file or passphrase-file, as in `larder set {} key-file=FILE`",
                name.split('@').next().unwrap_or(name)
            ))),
            [] => Err(no_secret(format!(
                "volume {name:?} is encrypted, and there is no terminal on which to ask for its passphrase; give --key-file, --passphrase-file, \
                 --passphrase-fd or --key-command"
            ))),
            _ => Err(VolumeError::new(Exit::Usage, "more than one secret was given; one is enough")),
        }
    }

    /// Says of an error of the key slots of volume `name`, which one of these secrets was to open, which volume it is, what was to open it,
    /// and where its slots are listed.
    #[must_use]
    pub fn explained(&self, name: &str, e: VolumeError) -> VolumeError {
        let volume = name.split('@').next().unwrap_or(name);
        let what = match (e.exit, self.sources().first().cloned().or_else(|| credential(name))) {
            (Exit::Secret, Some(source)) => format!("cannot open volume {name:?} with {source}"),
            (Exit::Secret, None) => format!("cannot open volume {name:?}"),
            (Exit::Usage, _) => format!("volume {name:?}"),
            _ => return e,
        };
        e.context(&what).hint(&format!("`larder key list {volume}` lists them"))
    }

    /// All secrets that a volume is to be opened with; asked for if none was named.
    ///
    /// # Errors
    /// As [`Secrets::secret`].
    pub fn new_secrets(&self, name: &str) -> Result<Vec<Secret>> {
        guard_process();
        let sources = self.sources();
        let new = |e: VolumeError, source: &Source| {
            let e = e.context(&format!("the new secret of volume {name:?}"));
            match source {
                Source::KeyFile(path) if !path.exists() => e.hint(&format!(
                    "make it first, as with `head -c 64 /dev/urandom > {}`, or name another",
                    path.display()
                )),
                _ => e,
            }
        };
        if !sources.is_empty() {
            return sources.iter().map(|source| self.read(source).map_err(|e| new(e, source))).collect();
        }
        if let Some(credential) = credential(name).filter(|_| !self.ask) {
            return credential.read(false).map(|secret| vec![secret]).map_err(|e| new(e, &credential));
        }
        if !self.ask {
            return Err(no_secret(format!(
                "volume {name:?}: an encrypted volume needs a secret; say where it is, with key-file or passphrase-file"
            )));
        }
        if !std::io::stdin().is_terminal() {
            return Err(no_secret(format!(
                "there is no terminal on which to ask for a new passphrase of volume {name:?}; say where the secret is: with --key-file or \
                 --passphrase-file for `larder create`, with --new-key-file or --new-passphrase-file for `larder key`"
            )));
        }
        let first = ask(&format!("New passphrase of volume {name:?}: "))?;
        if first != ask("Repeat the passphrase: ")? {
            return Err(no_secret("the two passphrases differ"));
        }
        passphrase(first, "the passphrase that was typed").map(|secret| vec![secret])
    }

    /// These, or where the secret of the volume was when it was made for containers, if nothing else is known.
    ///
    /// # Errors
    /// `Secret` when the file is missing, and nobody can type another secret that opens it.
    fn or_remembered(&self, root: &Root, id: StoreId, name: &str) -> Result<Self> {
        if !self.is_given()
            && credential(name).is_none()
            && let Ok(options) = options_of(root, name, Place::Store(id))
        {
            let remembered = self.or(Self { ask: self.ask, ..secrets_of(&options) });
            let files = remembered.key_file.iter().chain(&remembered.passphrase_file);
            if files.clone().any(|file| !self.ask || file.exists()) {
                return Ok(remembered);
            }
            let can_be_typed = || {
                let slots = key_slots(root, id).unwrap_or_default();
                io::stdin().is_terminal() && slots.iter().any(|slot| slot.kind != "key-file")
            };
            if let Some(file) = files.clone().next().filter(|_| !can_be_typed()) {
                let volume = name.split('@').next().unwrap_or(name);
                return Err(no_secret(format!(
                    "volume {name:?} is encrypted, and {}, where its secret is recorded to be, is missing; bring it back, give --key-file \
                     or another secret, or record where it is now with `larder set {volume} key-file=FILE`",
                    file.display()
                )));
            }
        }
        Ok(self.clone())
    }

    /// Whether a volume's store is encrypted. One that is not is refused where the volume is to be encrypted: because its secret
    /// is given or configured, because it was made so for containers, or because the host's configuration says so. Who can
    /// write to the disk can put a plain store in the place of an encrypted one, and would read what is written to it.
    ///
    /// # Errors
    /// `Secret` if it should be encrypted and is not, or as the header.
    pub fn must_fit(&self, root: &Root, id: StoreId, name: &str) -> Result<bool> {
        if is_encrypted(root, id)? {
            return Ok(true);
        }
        let volume = name.split('@').next().unwrap_or(name);
        let why = if self.is_given() || credential(name).is_some() {
            "a secret was given to open it with; if it was encrypted, its store was replaced, and has to be restored from a backup; if not, \
             leave out the secret"
                .to_owned()
        } else if Record::wants_encryption(root, volume)? {
            "it was made encrypted for containers: its store was replaced, and has to be restored from a backup"
                .to_owned()
        } else if config()?.requires_encryption(volume) {
            format!(
                "{} demands that it is; copy what it holds to a volume made with --encrypt, or change that",
                encryption_policy()
            )
        } else {
            return Ok(false);
        };
        Err(no_secret(format!("volume {name:?} is not encrypted, and {why}")))
    }

    /// Refuses the store at `place`, in a remote, which is not encrypted, where volumes of these names are to be: because a secret is given
    /// or configured, or because the host's configuration says so. Who can write to the remote can put a plain store in the place of an
    /// encrypted one.
    ///
    /// # Errors
    /// `Secret` if it should be encrypted; `Usage` when the configuration cannot be read.
    pub fn must_fit_plain(&self, place: &str, names: &[String]) -> Result<()> {
        if self.is_given() || names.iter().any(|name| credential(name).is_some()) {
            return Err(RemoteError::Secret { place: place.into(), encrypted: false }.into());
        }
        let config = config()?;
        match names.iter().find(|name| config.requires_encryption(name)) {
            Some(name) => Err(no_secret(format!(
                "{place}: the store is not encrypted, and {} demands that volume {name:?} is",
                encryption_policy()
            ))),
            None => Ok(()),
        }
    }

    /// The keys of a volume's store, as they are passed on; none if it is not encrypted.
    ///
    /// # Errors
    /// As [`Secrets::must_fit`] and [`Secrets::secret`], and when it is wrong.
    pub fn subkeys(&self, root: &Root, id: StoreId, name: &str) -> Result<Vec<Subkeys>> {
        if !self.must_fit(root, id, name)? {
            return Ok(Vec::new());
        }
        let dir = OsDir::new(root.store(id));
        let header = Header::read(&dir)?.keyring;
        if let Some(keys) = self.known.keys(id, header.as_ref()) {
            return Ok(keys);
        }
        if self.known.is_complete {
            return Err(no_secret(format!(
                "volume {name:?} is encrypted, and its server, which needed no secret, has just ended; try again"
            )));
        }
        let from = self.or_remembered(root, id, name)?;
        let secret = from.secret(name)?;
        let keys = unlock(&dir, &secret).map_err(|e| from.explained(name, e))?;
        if let Some(header) = header {
            self.known.keep_keys(id, header, &keys);
        }
        Ok(keys)
    }

    /// Whether the keys of a store are known, so that it can be opened without reading or asking for anything.
    pub(super) fn can_open(&self, root: &Root, id: StoreId) -> bool {
        let header = Header::read(&OsDir::new(root.store(id))).ok().and_then(|header| header.keyring);
        self.known.keys(id, header.as_ref()).is_some()
    }

    /// The keys of a volume's store, ready for use, to look at it or to change it here. A plain one is looked at also where a
    /// mount of it is refused.
    ///
    /// # Errors
    /// As [`Secrets::subkeys`].
    pub fn keys(&self, root: &Root, id: StoreId, name: &str) -> Result<Keys> {
        if !self.is_given() && !is_encrypted(root, id)? {
            return Ok(Keys::Plain);
        }
        let subkeys = self.subkeys(root, id, name)?;
        Keys::new(subkeys).map_err(|e| VolumeError::io(&root.store(id), &e))
    }
}
