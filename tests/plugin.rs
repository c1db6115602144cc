//! The volume plugin, asked as container engines ask it: HTTP over its socket. Tests named `fact_N_...` are about the numbered
//! facts of what engines really do.

pub mod client;
mod counts;
mod hostile;
mod lifecycle;
mod options;
mod protocol;
mod shared;
