//! Removing what nothing needs any more from the remote, between rounds of shipping.

use super::Work;
use crate::remote::{BootClock, Clock, Collect, Collected, HISTORY_MIN, Shipper};
use std::time::{Duration, Instant};

/// While somebody waits for each round, something is removed so often,
const REMOVES: Duration = Duration::from_secs(1);
/// for so long: programs that sync all the time leave records and images behind all the time, and what is made must not be more than what goes.
const SHARE: Duration = Duration::from_millis(100);
/// Objects that are removed at a time then.
const FEW: usize = 32;
/// And so often, something is written anew.
const REWRITES: Duration = Duration::from_secs(60);

/// When it is tidied up between rounds.
#[derive(Debug)]
pub(super) struct Tidying {
    removed: Instant,
    rewritten: Instant,
}

impl Tidying {
    pub(super) fn new(now: Instant) -> Self {
        Self { removed: now, rewritten: now }
    }

    /// Whether something is to be removed now.
    pub(super) fn removes(&mut self, is_waited_for: bool, now: Instant) -> bool {
        is_due(&mut self.removed, REMOVES, is_waited_for, now)
    }

    /// The same, of what is to be written anew.
    pub(super) fn rewrites(&mut self, is_waited_for: bool, now: Instant) -> bool {
        is_due(&mut self.rewritten, REWRITES, is_waited_for, now)
    }
}

fn is_due(last: &mut Instant, every: Duration, is_waited_for: bool, now: Instant) -> bool {
    let is_due = !is_waited_for || now.saturating_duration_since(*last) >= every;
    if is_due {
        *last = now;
    }
    is_due
}

impl Work {
    /// Removes some of what nothing has needed for as long as the history is to go back, which takes little time, and less where the next round
    /// is waited for. That it fails keeps nobody from anything, and is said once.
    pub(super) fn collect(&self, shipper: &mut Shipper, is_waited_for: bool, failed: &mut bool) {
        let local = self.kept.local();
        let min_age = Duration::from_secs(local.history.max(HISTORY_MIN));
        // The clock of an object store is believed; in a directory, times are those of the hosts that write there.
        if local.remote.starts_with("file:") {
            let newest = shipper.log().state().newest.number;
            shipper.none_is_older_than(self.kept.known_to_be_old(newest, BootClock.now(), min_age));
        }
        let options = Collect { min_age, ..Collect::default() };
        let collected = match is_waited_for {
            true => collect_for(SHARE, || shipper.collect_few(options, FEW)),
            false => shipper.collect_some(options).map(Option::unwrap_or_default),
        };
        match collected {
            Ok(Collected { objects, bytes, .. }) => {
                *failed = false;
                if objects > 0 {
                    log::debug!("removed {objects} objects from the remote, {bytes} bytes");
                }
            }
            Err(e) if *failed => log::debug!("what the remote does not need stays for now: {e}"),
            Err(e) => {
                *failed = true;
                log::warn!(
                    "what the remote does not need any more stays there for now, and is tried again: {e}"
                );
            }
        }
    }
}

/// Removes a few objects at a time until there are none, or so much time is over.
fn collect_for<E>(
    time: Duration,
    mut few: impl FnMut() -> Result<Option<Collected>, E>,
) -> Result<Collected, E> {
    let (until, mut all) = (Instant::now() + time, Collected::default());
    while let Some(some) = few()?.filter(|some| some.objects > 0) {
        (all.objects, all.bytes) = (all.objects + some.objects, all.bytes + some.bytes);
        if some.is_done || Instant::now() >= until {
            break;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 256 objects a minute went, and a program that syncs all the time leaves a thousand behind in less.
    #[test]
    fn while_somebody_waits_for_each_round_more_is_removed_than_is_left_behind() {
        let (begun, round) = (Instant::now(), Duration::from_millis(50));
        let mut tidying = Tidying::new(begun);
        let rounds: Vec<_> = (0..1200).map(|i| begun + round * i).collect();
        let removes = rounds.iter().filter(|now| tidying.removes(true, **now)).count();
        let rewrites = rounds.iter().filter(|now| tidying.rewrites(true, **now)).count();
        assert!(removes * FEW >= 1536 && rewrites == 0, "{removes} {rewrites}");
        let rewrites = rounds.iter().filter(|now| tidying.rewrites(true, **now + REWRITES)).count();
        assert_eq!(rewrites, 1);
        assert!(rounds.iter().all(|now| tidying.removes(false, *now) && tidying.rewrites(false, *now)));
    }

    #[test]
    fn what_takes_no_time_is_removed_to_its_end() {
        let mut left = 10_000;
        let few = || {
            let objects = FEW.min(left);
            left -= objects;
            Ok::<_, ()>((objects > 0).then_some(Collected {
                objects: objects as u64,
                bytes: 1,
                is_done: left == 0,
            }))
        };
        assert_eq!(collect_for(Duration::from_secs(3600), few).unwrap().objects, 10_000);
        let one = || Ok::<_, ()>(Some(Collected { objects: 1, bytes: 1, is_done: false }));
        assert_eq!(collect_for(Duration::ZERO, one).unwrap().objects, 1);
        let mut tried = 0;
        let fails = || {
            tried += 1;
            if tried < 3 {
                Ok(Some(Collected { objects: 1, bytes: 1, is_done: false }))
            } else {
                Err("refused")
            }
        };
        assert_eq!(collect_for(Duration::from_secs(3600), fails), Err("refused"));
    }
}
