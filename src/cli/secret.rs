//! Naming secrets on the command line.

use crate::host::{Known, Secrets};
use std::path::PathBuf;

const HEADING: &str = "The secret";

/// The secret of an encrypted volume.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SecretArgs {
    /// Read the passphrase from the first line of a file
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Use a file of at least 32 random bytes
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(super) key_file: Option<PathBuf>,
    /// Read the passphrase from an open file descriptor
    #[arg(long, value_name = "FD", help_heading = HEADING)]
    pub(super) passphrase_fd: Option<u32>,
    /// Run a command; what it prints is used like a key file
    #[arg(long, value_name = "COMMAND", help_heading = HEADING)]
    pub(super) key_command: Option<String>,
    /// What was read so far: each is read once, whatever it is needed for.
    #[arg(skip)]
    known: Known,
}

/// What is to open it from now on.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct NewSecretArgs {
    /// Read the new passphrase from the first line of a file
    #[arg(long, value_name = "FILE", help_heading = "The new secret")]
    new_passphrase_file: Option<PathBuf>,
    /// Use a new file of at least 32 random bytes
    #[arg(long, value_name = "FILE", help_heading = "The new secret")]
    new_key_file: Option<PathBuf>,
    /// Read the new passphrase from an open file descriptor
    #[arg(long, value_name = "FD", help_heading = "The new secret")]
    new_passphrase_fd: Option<u32>,
    /// Run a command; what it prints is used like a new key file
    #[arg(long, value_name = "COMMAND", help_heading = "The new secret")]
    new_key_command: Option<String>,
}

impl SecretArgs {
    /// What was named, and otherwise whoever is at the terminal.
    pub(super) fn named(&self) -> Secrets {
        Secrets {
            passphrase_file: self.passphrase_file.clone(),
            key_file: self.key_file.clone(),
            passphrase_fd: self.passphrase_fd,
            key_command: self.key_command.clone(),
            ask: true,
            known: self.known.clone(),
        }
    }
}

/// As [`SecretArgs::named`], to open all volumes there are: nobody is asked for the secrets of all of them.
pub(super) fn all_secrets(args: &SecretArgs) -> Secrets {
    let named = args.named();
    Secrets { ask: named.is_given(), ..named }
}

impl NewSecretArgs {
    /// What was named, and otherwise whoever is at the terminal.
    pub(super) fn named(&self) -> Secrets {
        Secrets {
            passphrase_file: self.new_passphrase_file.clone(),
            key_file: self.new_key_file.clone(),
            passphrase_fd: self.new_passphrase_fd,
            key_command: self.new_key_command.clone(),
            ask: true,
            ..Secrets::default()
        }
    }
}
