//! Servers that end while programs still use what they serve.

use super::mounted::url;
use crate::support::{Host, is_running, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::Pid;
use std::fs::File;

/// The remote was let go of while programs were still answered: what they were told was done, the next host did not have.
#[test]
fn what_programs_do_until_the_end_is_there_for_the_next_host() {
    for (a, b) in Host::each_kind().into_iter().zip(Host::each_kind()) {
        let store = a.dir("objects");
        let here = a.volume("db", &["--remote", &url(&store)]);
        a.ok(&["remote", "sync", "db"]);
        let dir = File::open(&here).unwrap();
        let (server, holder) = (a.server("db"), a.holder("db"));
        // Some of it, so that the last state takes a moment.
        std::fs::write(here.join("big"), crate::support::pattern(8 << 20, 1)).unwrap();
        kill(Pid::from_raw(server), Signal::SIGTERM).unwrap();
        let made = (0..).find(|i| mkdirat(&dir, i.to_string().as_str(), Mode::S_IRWXU).is_err()).unwrap();
        drop(dir);
        wait_until("it has ended", || !is_running(server) && !is_running(holder));
        b.ok(&["attach", &url(&store)]);
        let there = b.mount("db", &[]);
        let lost = (0..made).filter(|i| !there.join(i.to_string()).exists()).count();
        assert_eq!(lost, 0, "of {made}");
    }
}
