//! Keeping keys inside of a process.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps the memory of this process, which is about to hold keys, out of core dumps and from debuggers of other users.
/// What the system does not allow is left as it is.
pub fn guard_process() {
    if let Err(e) = set_dumpable(false) {
        log::debug!("prctl(PR_SET_DUMPABLE): {e}");
    }
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        log::debug!("setrlimit(RLIMIT_CORE): {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_process_leaves_no_core() {
        guard_process();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
