//! The kernel's side: decoding its requests, replying, and the session around them. This layer translates and never
//! decides; only it names `fuser`.

mod adapter;
mod bdi;
mod convert;
mod fuser_session;
mod kernel_cache;
mod negotiation;
mod options;
mod pin;
mod read_pool;
mod reply;
mod request;
mod session;

pub use bdi::lift_limits;
pub use options::FuseOptions;
pub use session::{Connection, serve};
