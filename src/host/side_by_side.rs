//! Many volumes at a time: one server that takes long, or does not answer, keeps nobody waiting but for its own volumes.

use crate::root::Root;
use crate::store::StoreId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

/// Stores that are looked at at the same time, at most: each takes a thread and a connection.
const THREADS: usize = 32;

/// What `look` finds for each of the volumes, in their order. Those of one store are looked at one after the other.
pub fn each<R: Send>(root: &Root, names: &[String], look: impl Fn(&str) -> R + Sync) -> Vec<R> {
    each_in(names, |name| root.resolve(name).ok().flatten(), look)
}

/// The same, for whoever knows in which stores they are.
pub(super) fn each_in<R: Send>(
    names: &[String],
    store_of: impl Fn(&str) -> Option<StoreId>,
    look: impl Fn(&str) -> R + Sync,
) -> Vec<R> {
    let mut families: HashMap<StoreId, Vec<usize>> = HashMap::new();
    let mut jobs: Vec<Vec<usize>> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        match store_of(name) {
            Some(id) => families.entry(id).or_default().push(at),
            None => jobs.push(vec![at]),
        }
    }
    jobs.extend(families.into_values());
    // What was asked for first is begun with first.
    jobs.sort_unstable();
    let mut found: Vec<(usize, R)> =
        all(&jobs, |places| places.iter().map(|at| (*at, look(&names[*at]))).collect::<Vec<_>>())
            .into_iter()
            .flatten()
            .collect();
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, one)| one).collect()
}

/// Does all jobs, some at a time, and returns what each of them does, in no order.
fn all<T: Sync, R: Send>(jobs: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(jobs.len())));
    let work_on_some = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = work(job);
            done.lock().push(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(jobs.len()) {
            // Where there are no more threads, those there are take longer.
            if Builder::new().spawn_scoped(scope, work_on_some).is_err() {
                break;
            }
        }
        work_on_some();
    });
    done.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// A root in which volume `vN` is of store `N % stores`.
    fn root(volumes: usize, stores: usize) -> (tempfile::TempDir, Root, Vec<String>) {
        let tmp = tempfile::tempdir().unwrap();
        let root = Root::new(tmp.path());
        std::fs::create_dir_all(root.volumes()).unwrap();
        let name = |n: usize| {
            let name = format!("v{n}");
            let store = StoreId((n % stores) as u128 + 1);
            symlink(format!("../stores/{store}"), root.link(&name)).unwrap();
            name
        };
        let names = (0..volumes).map(name).collect();
        (tmp, root.clone(), names)
    }

    #[test]
    fn answers_are_in_the_order_of_the_names_and_those_of_a_store_one_after_the_other() {
        let (_tmp, root, mut names) = root(100, 7);
        names.push("nothing".into());
        names.insert(3, "not a name".into());
        let busy: Vec<Mutex<()>> = (0..7).map(|_| Mutex::new(())).collect();
        let found = each(&root, &names, |name| {
            let store = name.strip_prefix('v').map(|n| n.parse::<usize>().unwrap() % 7);
            let _alone = store.map(|store| busy[store].try_lock().expect("nobody else asks this server"));
            name.to_owned()
        });
        assert_eq!(found, names);
        assert!(each(&root, &[], str::to_owned).is_empty());
    }

    #[test]
    fn one_that_takes_long_keeps_nobody_else_waiting_and_there_are_not_too_many_threads() {
        let (_tmp, root, names) = root(3 * THREADS, 3 * THREADS);
        // The first goes on when all others have been looked at.
        let (looked, (say, said)) = (AtomicUsize::new(0), channel());
        let said = Mutex::new(said);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        each(&root, &names, |name| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if name == "v0" {
                said.lock().recv_timeout(Duration::from_secs(60)).unwrap();
            } else if looked.fetch_add(1, Ordering::SeqCst) + 2 == names.len() {
                say.send(()).unwrap();
            }
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert!(most.into_inner() <= THREADS);
    }
}
