//! A clock that fits into an atomic.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since some moment, and never 0.
pub(super) fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}
