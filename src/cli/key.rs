//! `larder key`: the secrets of an encrypted volume.

use super::secret::{NewSecretArgs, SecretArgs};
use super::{CommandResult, Context, output, reencrypt};
use crate::exit_code::Exit;
use crate::host::{ship_keys, store_of};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{
    KeyEpochs, VolumeError, add_key, is_encrypted, key_epochs, key_slots, must_not_be_moment,
    new_recovery_key, remove_key, rotate_key,
};
use serde::Serialize;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// List the key slots of a volume
    #[command(alias = "ls")]
    List {
        /// Name of the volume
        name: String,
    },
    /// Add a secret that opens the volume
    Add {
        /// Name of the volume
        name: String,
        /// Make a recovery key and print it, once, instead of taking a secret
        #[arg(long)]
        recovery_key: bool,
        #[command(flatten)]
        secret: SecretArgs,
        #[command(flatten)]
        new: NewSecretArgs,
    },
    /// Remove a key slot; needs the secret of another one
    #[command(alias = "remove")]
    Rm {
        /// Name of the volume
        name: String,
        /// Number of the slot
        slot: u32,
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Encrypt everything in the store of a volume again, under a new key, while the volume is used
    Reencrypt {
        /// Name of the volume
        name: String,
        /// Return at once; it continues while the volume is mounted
        #[arg(long)]
        background: bool,
        /// Make a new master key, too, against those who have an old secret and an old header. Key slots of other secrets
        /// than the one given are removed
        #[arg(long)]
        new_master_key: bool,
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// Replace a secret by a new one
    Rotate {
        /// Name of the volume
        name: String,
        #[command(flatten)]
        secret: SecretArgs,
        #[command(flatten)]
        new: NewSecretArgs,
    },
}

/// What `key list` prints.
#[derive(Serialize)]
struct Listing {
    /// Those that have these keys: a family is one store.
    volumes: Vec<String>,
    #[serde(flatten)]
    epochs: Option<KeyEpochs>,
    slots: Vec<Row>,
}

/// A slot, as it is listed.
#[derive(Serialize)]
struct Row {
    slot: u32,
    kind: String,
    kdf: String,
    memory_kib: Option<u32>,
    passes: Option<u32>,
}

pub(super) fn run(context: &Context, args: &KeyArgs) -> CommandResult {
    let root = &context.root;
    match &args.command {
        KeyCommand::List { name } => list(context, name)?,
        KeyCommand::Add { name, recovery_key, secret, new } => {
            let id = changeable_store(root, name)?;
            let named = secret.named();
            let old = named.secret(name)?;
            let explained = |e| named.explained(name, e);
            if *recovery_key {
                let (key, new) = new_recovery_key()?;
                let slot = add_key(root, id, &old, &new).map_err(explained)?;
                let text = format!("key slot {slot}: {}", *key.text());
                output::done(context, &text, &json!({ "slot": slot, "recovery_key": *key.text() }))?;
                ship_keys(root, (id, name), &old)?;
            } else {
                for new in new.named().new_secrets(name)? {
                    let slot = add_key(root, id, &old, &new).map_err(explained)?;
                    output::done(
                        context,
                        &format!("key slot {slot} was added"),
                        &json!({ "slot": slot, "done": "added" }),
                    )?;
                }
                ship_keys(root, (id, name), &old)?;
            }
        }
        KeyCommand::Rm { name, slot, secret } => {
            let id = changeable_store(root, name)?;
            let named = secret.named();
            let secret = named.secret(name)?;
            remove_key(root, id, *slot, &secret).map_err(|e| named.explained(name, e))?;
            output::done(
                context,
                &format!("key slot {slot} was removed"),
                &json!({ "slot": slot, "done": "removed" }),
            )?;
            ship_keys(root, (id, name), &secret)?;
        }
        KeyCommand::Reencrypt { name, background, new_master_key, secret } => {
            changeable_store(root, name)?;
            reencrypt::run(context, name, secret, *new_master_key, *background)?;
        }
        KeyCommand::Rotate { name, secret, new } => {
            let id = changeable_store(root, name)?;
            let named = secret.named();
            let old = named.secret(name)?;
            let secrets = new.named().new_secrets(name)?;
            let (slot, new) = match secrets.as_slice() {
                [new] => (rotate_key(root, id, &old, new).map_err(|e| named.explained(name, e))?, new),
                _ => {
                    return Err(VolumeError::new(Exit::Usage, "give only one new secret"));
                }
            };
            output::done(
                context,
                &format!("key slot {slot} was replaced"),
                &json!({ "slot": slot, "done": "replaced" }),
            )?;
            ship_keys(root, (id, name), new)?;
        }
    }
    Ok(Exit::Ok)
}

/// The store of a volume that has keys, to change these.
fn changeable_store(root: &Root, name: &str) -> Result<StoreId, VolumeError> {
    let id = encrypted_store(root, name)?;
    must_not_be_moment(root, id, name)?;
    Ok(id)
}

/// The store of a volume that has keys.
fn encrypted_store(root: &Root, name: &str) -> Result<StoreId, VolumeError> {
    let id = store_of(root, name)?;
    match is_encrypted(root, id)? {
        true => Ok(id),
        false => Err(VolumeError::new(
            Exit::Usage,
            format!(
                "volume {name:?} is not encrypted, and has no keys; `larder create --encrypt` makes one that is"
            ),
        )),
    }
}

fn list(context: &Context, name: &str) -> Result<(), VolumeError> {
    let id = encrypted_store(&context.root, name)?;
    let slots: Vec<Row> = key_slots(&context.root, id)?
        .into_iter()
        .map(|slot| Row {
            slot: slot.id,
            kind: slot.kind,
            kdf: slot.kdf,
            memory_kib: slot.memory_kib,
            passes: slot.passes,
        })
        .collect();
    let epochs = key_epochs(&context.root, id)?;
    let volumes = family(&context.root, id)?;
    if context.json {
        return output::json(&Listing { volumes, epochs, slots });
    }
    let cell = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
    let rows: Vec<Vec<String>> = slots
        .into_iter()
        .map(|row| vec![row.slot.to_string(), row.kind, row.kdf, cell(row.memory_kib), cell(row.passes)])
        .collect();
    output::table(&["SLOT", "KIND", "DERIVATION", "MEMORY KIB", "PASSES"], &rows)?;
    if let Some(epochs) = epochs {
        output::line(&reencrypt::describe(&epochs))?;
    }
    if volumes.len() > 1 {
        output::line(&format!("these are the keys of {}, and of their snapshots", volumes.join(", ")))?;
    }
    Ok(())
}

/// The names of the volumes of a store.
fn family(root: &Root, id: StoreId) -> Result<Vec<String>, VolumeError> {
    let mut names = root.names().map_err(|e| VolumeError::io(&root.volumes(), &e))?;
    names.retain(|name| matches!(root.resolve(name), Ok(Some(found)) if found == id));
    names.sort_unstable();
    Ok(names)
}
