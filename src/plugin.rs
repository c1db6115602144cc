//! The volume plugin of container engines (Docker, Podman): HTTP on a Unix socket on one side, the volumes of this host on the other.
//!
//! It holds no data of volumes: servers do that, and live on when the plugin ends. What it has to remember is in small files
//! below the root (`docs/format.md`), so that it can be killed at any time.

mod books;
mod driver;
mod http;
mod locks;
mod mounts;
mod protocol;
mod serve;
mod socket;
mod status;
mod supervisor;

#[cfg(feature = "fuzzing")]
pub(crate) use protocol::fuzzed as fuzzed_call;
pub use serve::{PluginOptions, run};
pub use socket::default_socket;
