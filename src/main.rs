//! The `larder` program: see `larder --help`, and the library for everything it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::main()
}
