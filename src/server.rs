//! The process that has a store open and serves its mounts.
//!
//! There is one for each open store. `larder mount` starts it, hands it the FUSE device of each mount over the store's
//! control socket, and goes; it ends by itself when the last mount is gone. What it must not lose when it dies is with its
//! parent, the holder ([`Holder`]).

mod budget;
mod client;
mod control;
mod daemon;
mod family;
mod holder;
mod identity;
mod keeper;
mod listener;
mod logging;
mod own_program;
mod passed_files;
mod process;
mod recorder;
mod scrub;
mod serve;
mod trash;
mod unheld;
mod write_back;

pub use client::{Client, Replaced};
#[cfg(feature = "fuzzing")]
pub(crate) use control::fuzzed as fuzzed_control;
pub use control::{CheckUpdate, MountStatus, Reply, Request, ScrubUpdate, Status, Takeover};
pub use daemon::{Started, start};
pub use holder::{Bequest, Holder, HolderOptions, Offer, wait_longer};
pub use identity::be_for;
pub use keeper::{Endowment, Keeper};
pub use logging::{Logged, log_to_file, log_to_stderr, say_left_out};
pub use own_program::stand_for;
pub use process::{Orders, ToldToEnd, check_limits, detach, shed_limits};
pub use serve::{
    RemoteStatus, Server, ServerOptions, inside_itself, reencrypt_closed, run_until_idle, ship_to_leave,
};
pub use unheld::Unheld;
