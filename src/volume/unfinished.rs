//! What is in the program and is not finished: it is there for those who say that they know.

use super::error::{Result, VolumeError};
use crate::exit_code::Exit;

/// Names of what is wanted all the same, separated by commas.
const VARIABLE: &str = "LARDER_UNFINISHED";

/// Whether somebody wants what is called `name` all the same.
///
/// # Errors
/// That it is not finished, and how to have it.
pub(super) fn wants(name: &str) -> Result<()> {
    let named = std::env::var(VARIABLE).unwrap_or_default();
    if named.split(',').any(|wanted| wanted.trim() == name) {
        return Ok(());
    }
    let what = format!(
        "{name} are not finished in this version, and can lose what is only there; to try them with data that nobody needs, set {VARIABLE}={name}"
    );
    Err(VolumeError::new(Exit::Usage, what))
}
