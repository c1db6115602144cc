//! What engines show of a volume: the `Status` that only `docker volume inspect` prints.

use crate::exit_code::Exit;
use crate::host::{Inspection, MemoryInspection, Place, Record, look_for, secrets_of};
use crate::root::Root;
use crate::volume::is_encrypted;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// When a volume was made, in seconds since 1970, if that is known, and what else there is to know. Never fails: what cannot be
/// found out is left out, and why is said.
pub(super) fn of(
    root: &Root,
    name: &str,
    place: Place,
    record: Option<&Record>,
    users: &BTreeMap<String, u64>,
) -> (Option<u64>, Value) {
    let options = record.and_then(|record| record.options().ok()).unwrap_or_default();
    let (created, mut status) = match place {
        Place::Store(id) => {
            let encrypted = is_encrypted(root, id);
            // To derive a key from a passphrase takes as long as it is meant to.
            let secrets = match encrypted {
                Ok(true) if options.passphrase_file.is_none() => Some(secrets_of(&options)),
                _ => None,
            };
            let looked = look_for(root, name, secrets.as_ref(), PATIENCE).and_then(|look| {
                let created = look.info.created;
                Ok((created, Inspection::new(root, look)?))
            });
            match looked {
                Ok((created, inspection)) => {
                    (Some(created), serde_json::to_value(inspection).unwrap_or_default())
                }
                Err(e) => {
                    let health = if e.exit == Exit::Secret { "unmounted" } else { "unknown" };
                    let failure = (e.exit != Exit::Secret).then_some(e.message);
                    (None, json!({ "encrypted": encrypted.ok(), "health": health, "failure": failure }))
                }
            }
        }
        Place::Memory => {
            let found = MemoryInspection::new(root, name)
                .map(|found| serde_json::to_value(found).unwrap_or_default());
            let status = found.unwrap_or_else(|e| json!({ "health": "unknown", "failure": e.message }));
            (record.map(|record| record.created), status)
        }
    };
    if let Value::Object(fields) = &mut status {
        // They are beside it.
        fields.remove("name");
        fields.remove("created");
        fields.insert("containers".into(), json!(users));
        fields.insert("sticky".into(), json!(options.sticky));
        fields.insert("options".into(), json!(record.map(|record| &record.options)));
    }
    (created, status)
}
