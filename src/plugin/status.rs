//! What engines show of a volume: the `Status` that only `docker volume inspect` prints.

use crate::host::{Opening, Survey};
use crate::root::Root;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// When a volume was made, if that is known, and what else there is to know. Never fails: what cannot be found out is left out, and why is
/// said. No engine is asked for anything: the one that wants to know waits for this.
pub(super) fn of(root: &Root, name: &str, users: &BTreeMap<String, u64>) -> (Option<String>, Value) {
    let found = Survey::new(root, false).within(PATIENCE).volume(name, Opening::Remembered);
    let (created, mut status) = match found {
        Ok((volume, _)) => (volume.created.clone(), serde_json::to_value(volume).unwrap_or_default()),
        Err(e) => (None, json!({ "state": "unknown", "health": "failed", "failure": e.message })),
    };
    if let Value::Object(fields) = &mut status {
        // They are beside it.
        fields.remove("name");
        fields.remove("created");
        fields.insert("mount_ids".into(), json!(users));
    }
    (created, status)
}
