//! `larder key reencrypt`

use super::progress::Progress;
use super::secret::SecretArgs;
use super::{Context, output};
use crate::crypto::Subkeys;
use crate::exit_code::Exit;
use crate::host::{reencrypt_closed_store, server_of, ship_keys, store_of};
use crate::root::Root;
use crate::store::StoreId;
use crate::volume::{KeyEpochs, ReencryptionInfo, Result, VolumeError, begin_reencryption, key_slots};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long a server that is ending may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the server is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(
    context: &Context,
    name: &str,
    secret: &SecretArgs,
    new_master: bool,
    background: bool,
) -> Result<()> {
    let root = &context.root;
    let id = store_of(root, name)?;
    key_slots(root, id)?;
    let named = secret.named();
    let begun = begin_reencryption(root, id, &named.secret(name)?, new_master)
        .map_err(|e| named.explained(name, e))?;
    let epoch = begun.epoch;
    for slot in begun.removed_slots.iter().filter(|_| !context.json) {
        output::line(&format!("key slot {slot} was removed: `larder key add {name}` makes a new one"))?;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let result = match server_of(root, id)? {
            Some(mut client) => client.reencrypt(&begun.keys).map(|()| true),
            None if background => Ok(false),
            None => offline(root, id, begun.keys.clone()).map(|()| false),
        };
        match result {
            // The server that we met was ending, or has just come.
            Err(e) if matches!(e.exit, Exit::Busy | Exit::Failure) && !e.silent && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(e.context(&format!("re-encrypting {name:?}"))),
            Ok(true) if !background => {
                wait(root, id, name)?;
                // Without the older keys, and without slots that went.
                ship_keys(root, (id, name), &secret.named().secret(name)?)?;
                break;
            }
            Ok(mounted) if background => {
                let when =
                    if mounted { "continues in the background" } else { "continues when it is mounted" };
                let text = format!("the re-encryption of {name} in key epoch {epoch} {when}");
                return output::done(
                    context,
                    &text,
                    &json!({ "name": name, "epoch": epoch, "done": false, "removed_slots": begun.removed_slots }),
                );
            }
            Ok(_) => break,
        }
    }
    let text = format!("{name} is encrypted in key epoch {epoch}, and the older keys are gone");
    output::done(
        context,
        &text,
        &json!({ "name": name, "epoch": epoch, "done": true, "removed_slots": begun.removed_slots }),
    )
}

fn update(bar: &mut Progress, state: &ReencryptionInfo) {
    bar.update("MiB", state.done >> 20, state.total >> 20);
}

fn offline(root: &Root, id: StoreId, keys: Vec<Subkeys>) -> Result<()> {
    let mut bar = Progress::new();
    reencrypt_closed_store(root, id, keys, &mut |state| update(&mut bar, state))
}

/// Waits for the server to be done.
fn wait(root: &Root, id: StoreId, name: &str) -> Result<()> {
    let mut bar = Progress::new();
    loop {
        let asked =
            server_of(root, id).and_then(|client| client.map(|mut client| client.status()).transpose());
        match asked {
            Ok(Some(status)) => match status.reencryption {
                None => return Ok(()),
                Some(state) => match state.error() {
                    Some(e) => return Err(e.context(&format!("re-encrypting {name:?}"))),
                    None => update(&mut bar, &state),
                },
            },
            // Perhaps it goes on, and perhaps it does not.
            Err(e) if e.silent => return Err(e.context(&format!("re-encrypting {name:?}"))),
            // Whether it was done is in the header.
            Ok(None) | Err(_) => match crate::volume::key_epochs(root, id)? {
                Some(epochs) if !epochs.older.is_empty() => {
                    return Err(VolumeError::new(
                        Exit::Failure,
                        format!(
                            "{name:?} was unmounted: its re-encryption continues when it is mounted, or with \
                             `larder key reencrypt {name}`"
                        ),
                    ));
                }
                _ => return Ok(()),
            },
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A line about the epochs of a store.
pub(super) fn describe(epochs: &KeyEpochs) -> String {
    let KeyEpochs { epoch, older, segments, segments_left } = epochs;
    if older.is_empty() {
        return format!("key epoch {epoch}");
    }
    let done = segments - segments_left;
    format!("key epoch {epoch}; re-encryption is in progress: {done} of {segments} segments are done")
}
