//! The roots of the servers that run on this host.

use crate::root::Root;
use nix::unistd::geteuid;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Roots that are asked, at most: each takes a thread and a connection.
const MOST: usize = 64;

/// The roots of the servers that this user has started, as these were told on their command lines. What processes of others say of
/// themselves is not believed; nor what those in containers do, whose root may have the same number as this user: there, everything can
/// be called like a server.
pub(super) fn served_roots() -> Vec<Root> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_own = |dir: &PathBuf| dir.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw());
    let roots: BTreeSet<PathBuf> = processes
        .filter(is_own)
        .filter_map(|dir| root_of(&fs::read(dir.join("cmdline")).ok()?).filter(|_| !is_in_container(&dir)))
        .collect();
    roots.into_iter().map(Root::new).collect()
}

/// Whether a process has process IDs of its own, as those in containers have.
pub(super) fn is_in_container(process: &Path) -> bool {
    fs::read_to_string(process.join("status")).map_or(true, |status| has_own_ids(&status))
}

/// Whether a process has more than one ID, by its `/proc/PID/status`. An old kernel does not say it.
fn has_own_ids(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_whitespace().count() > 1)
}

/// What the first of the roots answers that has an answer to `ask`: all of them are asked side by side, and who has not answered within
/// `patience` is done without, however many there are. `ask` may go on for longer, on a thread of its own, and its answer is dropped then.
pub(super) fn first_of<T: Send + 'static>(
    roots: Vec<Root>,
    patience: Duration,
    ask: impl Fn(&Root) -> Option<T> + Clone + Send + 'static,
) -> Option<T> {
    let until = Instant::now() + patience;
    let (send, receive) = channel();
    if roots.len() > MOST {
        log::debug!("{} roots have servers, or seem to; {MOST} of them are asked", roots.len());
    }
    for root in roots.into_iter().take(MOST) {
        let (send, ask) = (send.clone(), ask.clone());
        let asked = Builder::new().name("larder-ask".into()).spawn(move || {
            if let Some(answer) = ask(&root) {
                let _ = send.send(answer);
            }
        });
        if let Err(e) = asked {
            log::debug!("cannot ask the servers of another root: {e}");
            break;
        }
    }
    // When all have said that they have none, nobody can send any more.
    drop(send);
    receive.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

/// The root on the command line of a process, if it is that of a server or of its holder: see `server/daemon.rs`.
fn root_of(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|b| *b == 0);
    let is_larder = words.next()?.starts_with(b"larder");
    if !is_larder || words.next()? != b"--root" {
        return None;
    }
    let root = PathBuf::from(OsStr::from_bytes(words.next()?));
    (root.is_absolute() && words.any(|word| word == b"serve")).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_their_command_lines() {
        let root = |line: &str| root_of(line.replace(' ', "\0").as_bytes());
        assert_eq!(
            root("larder:v --root /srv/larder -v serve 12 --cache-size 1"),
            Some("/srv/larder".into())
        );
        for other in [
            "",
            "larder",
            "larder --root",
            "larder --root /srv/larder ls",
            "larder --root srv serve 12",
            "bash --root /srv/larder serve 12",
        ] {
            assert_eq!(root(other), None, "{other}");
        }
        // Kernel threads have none, and nobody else can be read at times.
        assert!(served_roots().iter().all(|root| root.path().is_absolute()));
    }

    #[test]
    fn processes_in_containers_are_told_by_having_more_than_one_id() {
        assert!(!has_own_ids("Name:\tlarder:v\nNStgid:\t812\nNSpid:\t812\n"));
        assert!(has_own_ids("Name:\tlarder:v\nNStgid:\t812\t7\nNSpid:\t812\t7\n"));
        assert!(!has_own_ids("Name:\tlarder:v\n"));
        assert!(!is_in_container(Path::new("/proc/self")));
        assert!(is_in_container(Path::new("/proc/none")));
    }

    /// One after the other, they kept whoever unmounted waiting for as long as they liked.
    #[test]
    fn whoever_does_not_answer_is_not_waited_for_and_keeps_nobody_from_answering() {
        let roots = |count: usize| (0..count).map(|n| Root::new(format!("/srv/{n}"))).collect::<Vec<_>>();
        let number = |root: &Root| root.path().file_name()?.to_str()?.parse::<usize>().ok();
        let begun = Instant::now();
        let hang = || std::thread::sleep(Duration::from_secs(60));
        let last = first_of(roots(40), Duration::from_secs(20), move |root| {
            if number(root) != Some(39) {
                hang();
            }
            number(root)
        });
        assert_eq!(last, Some(39));
        let patience = Duration::from_millis(100);
        assert_eq!(
            first_of(roots(1000), patience, move |root| {
                hang();
                number(root)
            }),
            None
        );
        // All have said that it is not theirs.
        assert_eq!(first_of(roots(5), Duration::from_secs(60), |_| None::<u8>), None);
        assert_eq!(first_of(Vec::new(), Duration::from_secs(60), |_| Some(1)), None);
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}
