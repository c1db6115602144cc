//! Suites that others wrote, run complete: `pjdfstest` for what POSIX says, `fsx` for the contents of files.
//!
//! `scripts/test` installs them, in the versions it names; `docs/conformance.md` says what came out.

mod direct;
mod fsx;
mod pjdfstest;

use std::path::{Path, PathBuf};

/// A program that `scripts/test` installed.
fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

/// The seed that the random suites begin with; `LARDER_CONFORMANCE_SEED` makes it another, for `scripts/soak`.
fn first_seed() -> u64 {
    std::env::var("LARDER_CONFORMANCE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}
