//! The kernel's side: decoding its requests, replying, and the session around them. This layer translates and never
//! decides; only it names `fuser`.

mod adapter;
mod again;
mod awaited;
mod awake;
mod bdi;
mod clock;
mod convert;
mod crew;
mod device;
mod direct_writes;
mod fault;
mod fuser_session;
mod gate;
mod ioctl;
mod kernel_cache;
mod ledger;
mod long;
mod negotiation;
mod opened;
mod operate;
mod options;
mod passing;
mod pin;
mod pool;
mod reply;
mod request;
mod seek;
mod serving;
mod session;
mod settling;
mod slowed;
mod task;
mod uring;
mod wire;
mod workers;

pub use bdi::lift_limits;
pub use device::first_reader;
pub use gate::{MayAnswer, Verdict};
pub use ledger::{InHand, Ledger, Mark};
pub use opened::OpenFiles;
pub use options::{FuseOptions, Transport};
pub use passing::{Came, Passing, Pause};
pub use session::{Before, Connection, Mounted, Told, serve, take_over};
pub use settling::Suspicion;
pub use uring::{Flow, available as uring_available, await_done, warning as uring_warning};

#[cfg(feature = "fuzzing")]
pub(crate) use wire::fuzzed as fuzzed_request;
