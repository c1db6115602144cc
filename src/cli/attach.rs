//! `larder attach`

use super::secret::SecretArgs;
use super::shipping::parse_lease;
use super::{CommandResult, Context, output};
use crate::crypto::Secret;
use crate::exit_code::Exit;
use crate::host::{Secrets, parse_heartbeat, parse_history, parse_lag, parse_local};
use crate::period;
use crate::remote::{At, Claimed, LeaseKind, OwnerId, Waiting, When};
use crate::volume::{
    self, AttachSpec, Attaching, MomentSpec, Result, Tuning, VolumeError, attach, attach_at,
};
use serde_json::{Value, json};

/// What does not go with ways to be shipped: nothing is.
const READ: [&str; 2] = ["at", "read_only"];

/// What `larder attach` takes.
#[derive(Debug, clap::Args)]
pub(super) struct AttachArgs {
    /// URL of what another host has shipped (s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY), or a name from /etc/larder/remotes.toml,
    /// with the name that the volume has there
    remote: String,
    /// What to call the volume here [default: as there]
    name: Option<String>,
    /// Take it from a host that has not let go of it. That host may go on serving what it had; what it has not shipped stays there
    #[arg(long)]
    steal: bool,
    /// Where the records of it break off, because it has gone back in time, or somebody has removed one of them: attach what there is before that,
    /// and remove what is behind it. Nothing can be done with that any more; but look first whether what is missing can be brought back
    #[arg(long, conflicts_with_all = READ)]
    accept_older: bool,
    /// As it was then, to be read, beside whoever has it now: a time (2026-11-26T10:00:00Z, or 10m for ten minutes ago), or the number of
    /// a record (`larder remote history` lists them). If there are many volumes, their names begin with NAME then
    #[arg(long, value_name = "TIME", value_parser = parse_at, conflicts_with = "steal")]
    at: Option<At>,
    /// As it was shipped last, to be read, beside whoever has it: as --at says it of an earlier time
    #[arg(long, conflicts_with = "steal")]
    read_only: bool,
    /// How far behind the remote may be from now on, in seconds [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), conflicts_with_all = READ)]
    ship: Option<u64>,
    /// How much the remote may lack before those who write are slowed, such as 1G, or `none` [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_lag, conflicts_with_all = READ)]
    max_lag: Option<u64>,
    /// For how long each state that it had can still be attached, such as 24h or 7d, and at least 1h [default: as it was]
    #[arg(long, value_name = "TIME", value_parser = parse_history, conflicts_with_all = READ)]
    history: Option<u64>,
    /// How much of its contents stays on the disk here, such as 20G: beyond that, the least recently used are removed here;
    /// `none`: all that is fetched stays [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_local, conflicts_with_all = READ)]
    local_size: Option<u64>,
    /// Whether this host stops answering when it cannot show life there (`strict`), so that another one can take it by itself and the two
    /// never serve at once; or works on through any outage (`none`) [default: as it was]
    #[arg(long, value_name = "KIND", value_parser = parse_lease, conflicts_with_all = READ)]
    lease: Option<LeaseKind>,
    /// How often this host shows life there, in seconds, from 1 to 10 [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = parse_heartbeat, conflicts_with_all = READ)]
    heartbeat: Option<u64>,
    #[command(flatten)]
    secret: SecretArgs,
}

/// Whoever gives the command.
struct AtTerminal<'a> {
    secrets: Secrets,
    /// What the volume is called when its secret is asked for.
    called: &'a str,
    /// For whom it is waited.
    awaited: Option<OwnerId>,
}

impl Attaching for AtTerminal<'_> {
    fn secret(&mut self) -> Result<Secret> {
        self.secrets.secret(self.called)
    }

    fn accept_plain(&mut self, place: &str, names: &[String]) -> Result<()> {
        self.secrets.must_fit_plain(place, names)
    }

    fn waits(&mut self, waiting: &Waiting) -> bool {
        // Once for each owner.
        if self.awaited.replace(waiting.owner.id) != Some(waiting.owner.id) {
            let left = waiting.left.as_secs();
            output::warning(format!(
                "waiting up to {left} s to be sure that host {:?} has stopped",
                waiting.owner.host
            ));
        }
        true
    }
}

/// Reads when.
fn parse_at(text: &str) -> std::result::Result<At, String> {
    volume::parse_at(text, |text| period::parse(text).ok().filter(|ago| !ago.is_zero()))
}

pub(super) fn run(context: &Context, args: &AttachArgs) -> CommandResult {
    let (remote, name) = (args.remote.as_str(), args.name.as_deref());
    let called = args.name.as_deref().unwrap_or(&args.remote);
    let mut terminal = AtTerminal { secrets: args.secret.named(), called, awaited: None };
    let hint = |e: VolumeError| match e.exit {
        Exit::NoVolume if !e.message.contains("larder remote history") => {
            e.hint(&format!("`larder remote ls {}` lists what is there", args.remote))
        }
        _ => e,
    };
    // What is yet to come is the newest there is.
    let newest = args.read_only.then_some(At::Time(When { seconds: u64::MAX, nanoseconds: 0 }));
    if let Some(at) = args.at.or(newest) {
        let spec = MomentSpec { remote, name, at };
        let (names, moment) = attach_at(&context.root, &spec, &mut terminal).map_err(hint)?;
        let (record, time) = (moment.position.number, moment.time);
        let done =
            json!({ "names": names, "remote": args.remote, "record": record, "time": time.to_string() });
        let of = |name: &String| format!("{name}: the state of record {record} of {time}, to be read");
        return say(context, names.iter().map(of), &done);
    }
    let AttachArgs { ship, max_lag, history, local_size, lease, heartbeat, .. } = *args;
    let tuning = Tuning { ship, max_lag, history, local_size, lease, heartbeat };
    let spec = AttachSpec { remote, name, steal: args.steal, accept_older: args.accept_older, tuning };
    let (names, claimed) = attach(&context.root, &spec, &mut terminal).map_err(hint)?;
    if let Some(Claimed { record, from: Some(from), may_still_serve: true }) = claimed {
        output::warning(format!(
            "host {:?} may still be serving what it had when the store was taken from it (record {record}); what is written there from now on \
             stays there",
            from.host
        ));
    }
    let done = json!({ "names": names, "remote": args.remote });
    say(context, names.into_iter(), &done)
}

/// Says what was done, a line for each volume.
fn say(context: &Context, lines: impl Iterator<Item = String>, done: &Value) -> CommandResult {
    match context.json {
        true => output::json(done)?,
        false => lines.into_iter().try_for_each(|line| output::line(&line))?,
    }
    Ok(Exit::Ok)
}
