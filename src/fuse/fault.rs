//! Faults that tests ask for, by `LARDER_FAULT` in the environment of the process that starts servers: `abort=NAME` ends a server
//! that is asked for something whose last name is NAME, `hang=NAME` lets it work on that for ever. A rollback of a mounted volume is a
//! request of that name, made when the holder knows of it and nothing has happened; `forget-lossy` is that of the kernel's to forget a
//! file from which something is missing. `abort=@NUMBER` and `hang=@NUMBER` strike
//! requests with this number (an offset, a size) when another thread than the one that took them works on them. `slow-write-back=MS` lets each request take so long in which the
//! kernel writes back what it had in its cache.

use std::sync::LazyLock;
use std::time::Duration;

/// A fault that a test asks for.
#[derive(Debug)]
pub(super) struct Fault {
    hangs: bool,
    victim: Victim,
}

#[derive(Debug)]
enum Victim {
    /// As it stands at the end of a request.
    Named(Vec<u8>),
    /// As it stands in a request, at a multiple of its size.
    Numbered([u8; 8]),
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (kind, victim) = text.split_once('=').filter(|(kind, _)| ["abort", "hang"].contains(kind))?;
        let victim = match victim.strip_prefix('@') {
            Some(number) => Victim::Numbered(number.parse::<u64>().ok()?.to_ne_bytes()),
            None => Victim::Named([victim.as_bytes(), b"\0"].concat()),
        };
        Some(Self { hangs: kind == "hang", victim })
    }

    /// Does what was asked for.
    pub(super) fn strike(&self) {
        log::error!("a fault was asked for: {self:?}");
        if self.hangs {
            loop {
                std::thread::park();
            }
        }
        std::process::abort();
    }
}

static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
    let asked = std::env::var("LARDER_FAULT").unwrap_or_default();
    asked.split(',').filter_map(Fault::parse).collect()
});

/// Does what was asked for if a request with these last bytes is the one.
pub(super) fn strike(request: &[u8]) {
    let is_named = |fault: &&Fault| matches!(&fault.victim, Victim::Named(name) if request.ends_with(name));
    if let Some(fault) = FAULTS.iter().find(is_named) {
        fault.strike();
    }
}

static SLOW_WRITE_BACK: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let asked = std::env::var("LARDER_FAULT").unwrap_or_default();
    let ms = asked.split(',').find_map(|fault| fault.strip_prefix("slow-write-back="))?;
    ms.parse().ok().map(Duration::from_millis)
});

/// Takes its time for a request in which the kernel writes back, if that was asked for.
pub(super) fn slow_down() {
    if let Some(time) = *SLOW_WRITE_BACK {
        std::thread::sleep(time);
    }
}

/// What is to happen to a request with these arguments when it is gone on with.
pub(super) fn later(args: &[u8]) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| match fault.victim {
        Victim::Numbered(number) => args.chunks_exact(8).any(|word| word == number),
        Victim::Named(_) => false,
    })
}
