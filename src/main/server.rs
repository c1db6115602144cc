//! What holders and servers run where they can: the part of the `larder` program that they need. `larder` starts it (`cli/smaller.rs`).

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::smaller_main()
}
