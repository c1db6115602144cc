//! Faults that tests ask for, by `LARDER_FAULT` in the environment of the process that starts servers: `abort=NAME` ends a server
//! that is asked for something whose last name is NAME, `hang=NAME` lets it work on that for ever. A rollback of a mounted volume is a
//! request of that name, made when the holder knows of it and nothing has happened.

use std::sync::LazyLock;

#[derive(Debug)]
struct Fault {
    hangs: bool,
    /// As it stands at the end of a request.
    name: Vec<u8>,
}

static FAULTS: LazyLock<Vec<Fault>> = LazyLock::new(|| {
    let asked = std::env::var("LARDER_FAULT").unwrap_or_default();
    let fault = |text: &str| {
        let (kind, name) = text.split_once('=')?;
        Some(Fault { hangs: kind == "hang", name: [name.as_bytes(), b"\0"].concat() })
    };
    asked.split(',').filter_map(fault).collect()
});

/// Does what was asked for if a request with these last bytes is the one.
pub(super) fn strike(request: &[u8]) {
    let Some(fault) = FAULTS.iter().find(|fault| request.ends_with(&fault.name)) else { return };
    log::error!("a fault was asked for: {fault:?}");
    if fault.hangs {
        loop {
            std::thread::park();
        }
    }
    std::process::abort();
}
