//! What can be done with volumes from outside: make, remove, look at, check.

pub mod check;
mod create;
mod error;
mod info;
mod remove;

pub use create::{VolumeSpec, create};
pub use error::{Result, VolumeError};
pub use info::{VolumeInfo, info_from_meta, read_info};
pub use remove::remove;
