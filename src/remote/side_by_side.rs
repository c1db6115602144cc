//! Several requests at a time.

use super::error::Result;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder};

/// Requests under way at a time, where nothing else is said.
pub(super) const AT_ONCE: usize = 4;

/// Does something with each of `items`, so many at a time; what came of it, in their order. Where the host has no threads to give, fewer
/// are done at a time.
pub(super) fn all<T: Sync, R: Send>(
    at_once: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<thread::Result<R>> {
    all_on(Builder::new, at_once, items, work)
}

/// The same, on threads of this builder's.
fn all_on<T: Sync, R: Send>(
    builder: impl Fn() -> Builder,
    at_once: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<thread::Result<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, thread::Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = catch_unwind(AssertUnwindSafe(|| work(item)));
            results.lock().push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..at_once.min(items.len()) {
            // This thread, and those that there are, do all of it.
            if let Err(e) = builder().spawn_scoped(scope, run) {
                log::debug!("fewer requests at a time: cannot start a thread: {e}");
                break;
            }
        }
        run();
    });
    let mut results = results.into_inner();
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Does something with each of `items`, so many at a time. The first error ends it.
pub(super) fn each_of<T: Sync, R: Send>(
    at_once: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let failed = AtomicBool::new(false);
    let results = all(at_once, items, |item| {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let result = work(item);
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        Some(result)
    });
    let mut done = Vec::with_capacity(items.len());
    for result in results {
        match result {
            Ok(Some(result)) => done.push(result?),
            // Another one has failed.
            Ok(None) => {}
            Err(panic) => resume_unwind(panic),
        }
    }
    Ok(done)
}

/// Does something with each of `items`, [`AT_ONCE`] at a time. The first error ends it.
pub(super) fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    each_of(AT_ONCE, items, work)
}

#[cfg(test)]
mod tests {
    use super::super::error::RemoteError;
    use super::*;

    /// It was a panic, and nothing was shipped any more.
    #[test]
    fn a_thread_that_cannot_be_started_is_done_without() {
        let items: Vec<u32> = (0..20).collect();
        // No host has that much.
        let no_thread = || Builder::new().stack_size(1 << 62);
        let here = thread::current().id();
        let done = all_on(no_thread, 8, &items, |item| {
            assert_eq!(thread::current().id(), here);
            item * 2
        });
        let done: Vec<u32> = done.into_iter().map(|done| done.unwrap()).collect();
        assert_eq!(done, items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_done_is_in_order_and_an_error_ends_it() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(each(&items, |item| Ok(*item)).unwrap(), items);
        assert!(each(&items[..0], |item| Ok(*item)).unwrap().is_empty());
        let failed = each(&items, |item| if *item == 7 { Err(RemoteError::Interrupted) } else { Ok(*item) });
        assert!(matches!(failed, Err(RemoteError::Interrupted)));
        let panicked = all(3, &items, |item| assert_ne!(*item, 7));
        assert!(panicked.iter().enumerate().all(|(at, done)| done.is_err() == (at == 7)));
    }
}
