//! Many hosts want one store, in simulated time: through outages, lost answers and late requests, with clocks that run differently, and
//! while they stand still at any moment. There is one history; and with strict leases nobody serves in another's time.

use super::sealed::{STORE, owner, sealer};
use super::simulated::{Bucket, Faults, Simulated};
use super::world::{Host, World};
use larder::crypto::Keys;
use larder::remote::{
    Beat, Claim, Clock, Commit, Contents, HEARTBEAT, Kept, LeaseKind, Local, Log, Objects, Patience, Patient,
    Permit, Position, RedoTail, RemoteError, Round, Seen, Steal, Stopped, claim_to_attach, goodbye, init,
    take_up,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is to be true in the end.
#[derive(Debug, Default)]
struct Observed {
    /// By which claim something was answered, in order, each once until another was.
    served: Vec<u64>,
    /// Records that their owner was told are part of the history.
    acknowledged: Vec<(Position, u64)>,
    claims: usize,
    steals: usize,
    fenced: usize,
    answers: usize,
}

struct Scenario {
    seed: u64,
    hosts: u64,
    faults: Faults,
    pauses: u32,
    lease: LeaseKind,
    time: Duration,
}

fn work(
    scenario: &Scenario,
    host: &Arc<Host>,
    number: u64,
    bucket: &Arc<Bucket>,
    observed: &Mutex<Observed>,
) {
    let clock: Arc<dyn Clock> = Arc::clone(host) as Arc<dyn Clock>;
    let once: Arc<dyn Objects> = Simulated::new(bucket, host, scenario.faults);
    let objects: Arc<dyn Objects> =
        Arc::new(Patient::new(Arc::clone(&once), Arc::clone(&clock), Patience::default()));
    let mut kept = None::<Arc<Kept>>;
    while host.world.now() < scenario.time {
        // Another store on this host, or one that goes on, perhaps after a crash.
        if !host.chance(40) {
            kept = None;
        }
        let worked = incarnation(host, number, scenario.lease, &objects, &once, &clock, observed, &mut kept);
        match worked {
            Ok(()) | Err(RemoteError::InUse { .. } | RemoteError::Fenced { .. }) => {}
            Err(e) => assert!(
                e.is_passing() || matches!(e, RemoteError::Interrupted),
                "seed {}: {e}",
                scenario.seed
            ),
        }
        host.world.sleep(Duration::from_millis(host.below(20_000)));
    }
}

/// A store that attaches the remote.
fn attach(
    host: &Arc<Host>,
    number: u64,
    lease: LeaseKind,
    objects: &Arc<dyn Objects>,
    clock: &Arc<dyn Clock>,
    observed: &Mutex<Observed>,
) -> Result<Arc<Kept>, RemoteError> {
    let me = owner(&format!("host{number}"), lease);
    let mut log = Log::open(Arc::clone(objects), sealer(STORE, &Keys::Plain, &**objects), Seen::Nothing)?;
    let steal = if host.chance(10) { Steal::Yes } else { Steal::No };
    // (Where it fails, or is interrupted, what was claimed stays, as of one that was killed.)
    let claimed = claim_to_attach(&mut log, &me, steal, &**clock, &mut |_| !host.chance(1))?;
    observed.lock().unwrap().steals += usize::from(claimed.from.is_some());
    let mut local = Local::new(objects.place()).unwrap();
    local.owner = me.id.to_string();
    local.lease = lease.to_string();
    local.place = "here".into();
    local.saw(log.state().newest);
    Ok(Arc::new(Kept::in_memory("here", local)))
}

#[expect(clippy::too_many_arguments, reason = "it is called once")]
fn incarnation(
    host: &Arc<Host>,
    number: u64,
    lease: LeaseKind,
    objects: &Arc<dyn Objects>,
    once: &Arc<dyn Objects>,
    clock: &Arc<dyn Clock>,
    observed: &Mutex<Observed>,
    kept: &mut Option<Arc<Kept>>,
) -> Result<(), RemoteError> {
    let kept = match kept {
        Some(kept) => kept,
        None => kept.insert(attach(host, number, lease, objects, clock, observed)?),
    };
    let sealer = sealer(STORE, &Keys::Plain, &**objects);
    let (mut log, me) = take_up(Arc::clone(objects), sealer, kept, &**clock, &mut |_| !host.chance(1))?;
    let me = &me;
    let record = log.state().held.as_ref().unwrap().record;
    observed.lock().unwrap().claims += 1;
    let permit = Permit::new(me.lease, Arc::clone(clock));
    let mut beat = Beat::new(Arc::clone(once), &log, me, Arc::clone(&permit), Arc::clone(clock), HEARTBEAT)?;
    let mut due = clock.now();
    let mut count = 0u64;
    for _ in 0..host.below(150) {
        if clock.now() >= due || permit.try_answer().is_none() {
            match beat.round() {
                Ok(Round::Owner) => due = clock.now() + beat.period(),
                Ok(Round::Stopped) => break,
                Err(e) => {
                    assert!(e.is_passing(), "{e}");
                    due = clock.now() + Duration::from_secs(1);
                }
            }
        }
        // Nobody else runs between the two.
        if permit.try_answer().is_some() {
            let mut observed = observed.lock().unwrap();
            observed.answers += 1;
            if observed.served.last() != Some(&record) {
                observed.served.push(record);
            }
        }
        if host.chance(30) {
            count += 1;
            let tail = RedoTail { epoch: me.id.0 as u64, offset: count, bytes: bytes::Bytes::new() };
            let commit = Contents::Commit(Box::new(Commit { redo: vec![tail], ..Commit::default() }));
            match log.append(me, commit, None, clock.wall()) {
                Ok(at) => observed.lock().unwrap().acknowledged.push((at, count)),
                Err(RemoteError::Fenced { by, .. }) => permit.stop(Stopped::Fenced(by)),
                // It is pending, and done with the next one.
                Err(e) => assert!(e.is_passing() || matches!(e, RemoteError::NotOwner { .. }), "{e}"),
            }
        }
        clock.sleep(Duration::from_millis(host.below(3_000)));
    }
    if permit.stopped().is_some() {
        observed.lock().unwrap().fenced += 1;
        // It says that it has stopped.
        let _ = beat.round();
        return Ok(());
    }
    drop(beat);
    if host.chance(40) { goodbye(&mut log, me, &permit, &**clock) } else { Ok(()) }
}

fn play(scenario: &Scenario) -> Observed {
    let world = World::new();
    let bucket = Bucket::new(Duration::from_secs(5));
    {
        let host = Host::new(&world, 1, 0);
        let objects: Arc<dyn Objects> = Simulated::new(&bucket, &host, Faults::default());
        init(&*objects, &sealer(STORE, &Keys::Plain, &*objects), 1).unwrap();
    }
    let observed = Mutex::new(Observed::default());
    let hosts: Vec<Arc<Host>> =
        (0..scenario.hosts).map(|i| Host::new(&world, scenario.seed * 100 + i, scenario.pauses)).collect();
    let tasks = hosts.iter().enumerate().map(|(i, host)| {
        let (bucket, observed) = (&bucket, &observed);
        Box::new(move || work(scenario, host, i as u64, bucket, observed)) as Box<dyn FnOnce() + Send + '_>
    });
    world.run(tasks.collect());
    let observed = observed.into_inner().unwrap();
    verify(scenario, &world, &bucket, &observed);
    observed
}

fn verify(scenario: &Scenario, world: &Arc<World>, bucket: &Arc<Bucket>, observed: &Observed) {
    let seed = scenario.seed;
    let host = Host::new(world, 1, 0);
    let objects: Arc<dyn Objects> = Simulated::new(bucket, &host, Faults::default());
    let log = Log::open(Arc::clone(&objects), sealer(STORE, &Keys::Plain, &*objects), Seen::Nothing).unwrap();
    let records: Vec<_> = log.chain(1, None).collect::<Result<_, _>>().unwrap();
    assert_eq!(records.len() as u64, log.state().newest.number, "seed {seed}");
    // One history: what was acknowledged is in it, at its place.
    for (at, count) in &observed.acknowledged {
        let record = &records[at.number as usize - 1];
        assert_eq!(record.seal, at.seal, "seed {seed}: record {}", at.number);
        let Contents::Commit(commit) = &record.contents else { panic!("seed {seed}") };
        assert_eq!(commit.redo[0].offset, *count, "seed {seed}");
    }
    // Between two claims, only the owner writes.
    let mut owner = None;
    for record in &records {
        match &record.contents {
            Contents::Claim(Claim { .. }) => owner = Some(record.head.owner),
            _ => assert_eq!(owner, Some(record.head.owner), "seed {seed}: record {}", record.number),
        }
        if matches!(record.contents, Contents::Goodbye) {
            owner = None;
        }
    }
    // Nobody serves in another's time: once a later claim has served, no earlier one does.
    if scenario.lease == LeaseKind::Strict {
        assert!(observed.served.is_sorted(), "seed {seed}: {:?}", observed.served);
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let factor = std::env::var("LARDER_FUZZ_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    1..=count * factor
}

const BAD: Faults = Faults { errors: 5, lost_answers: 5, late_requests: 3, delay: 2000, outages: 60 };

#[test]
fn strict_owners_never_serve_in_each_others_time() {
    let mut all = Observed::default();
    for seed in seeds(60) {
        let scenario = Scenario {
            seed,
            hosts: 2 + seed % 3,
            faults: if seed % 4 == 0 { Faults { delay: 50, ..Faults::default() } } else { BAD },
            pauses: if seed % 3 == 0 { 0 } else { 700 },
            lease: LeaseKind::Strict,
            time: Duration::from_secs(1800),
        };
        let observed = play(&scenario);
        all.claims += observed.claims;
        all.steals += observed.steals;
        all.fenced += observed.fenced;
        all.answers += observed.answers;
    }
    // It was not quiet.
    assert!(all.claims > 300 && all.steals > 50 && all.fenced > 20 && all.answers > 3000, "{all:?}");
}

#[test]
fn without_leases_there_is_still_one_history() {
    let mut fenced = 0;
    for seed in seeds(30) {
        let scenario = Scenario {
            seed: 1000 + seed,
            hosts: 3,
            faults: BAD,
            pauses: 500,
            lease: LeaseKind::None,
            time: Duration::from_secs(1800),
        };
        fenced += play(&scenario).fenced;
    }
    assert!(fenced > 5, "{fenced}");
}
