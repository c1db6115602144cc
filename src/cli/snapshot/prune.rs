//! `larder snapshot prune`

use super::rm::remove;
use crate::cli::secret::{SecretArgs, all_secrets};
use crate::cli::{CommandResult, Context, output};
use crate::exit_code::Exit;
use crate::host::{Count, KeepRules, Labels, Question, Snapshot, Verdict, Within, snapshots, time};
use crate::volume::{self, Selection, SnapshotInfo, VolumeError};
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};
use std::time::{SystemTime, UNIX_EPOCH};

const HEADING: &str = "What is kept";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SnapshotPruneArgs {
    /// The volumes. With a pattern or a range, as for `snapshot rm`, only these snapshots are looked at
    #[arg(required_unless_present = "all", value_name = "VOLUME[@PATTERN]")]
    volumes: Vec<String>,
    /// All volumes
    #[arg(short, long, conflicts_with = "volumes")]
    all: bool,
    /// Look only at snapshots that have all of these labels; can be given more than once, for those that have others
    #[arg(long = "tag", visible_alias = "label", value_name = "KEY[=VALUE][,...]")]
    tags: Vec<Labels>,
    /// Only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Keep the N newest (here and below, `unlimited` for all)
    #[arg(short = 'l', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_last: Count,
    /// Keep the newest of each hour that has one, for N hours
    #[arg(short = 'H', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_hourly: Count,
    /// Keep the newest of each day that has one, for N days
    #[arg(short = 'd', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_daily: Count,
    /// Keep the newest of each week that has one, for N weeks
    #[arg(short = 'w', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_weekly: Count,
    /// Keep the newest of each month that has one, for N months
    #[arg(short = 'm', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_monthly: Count,
    /// Keep the newest of each year that has one, for N years
    #[arg(short = 'y', long, value_name = "N", allow_hyphen_values = true, default_value = "0", hide_default_value = true, help_heading = HEADING)]
    keep_yearly: Count,
    /// Keep all that were made within a time (such as 1y5m7d2h) of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within: Option<Within>,
    /// Keep the newest of each hour within a time of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within_hourly: Option<Within>,
    /// Keep the newest of each day within a time of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within_daily: Option<Within>,
    /// Keep the newest of each week within a time of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within_weekly: Option<Within>,
    /// Keep the newest of each month within a time of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within_monthly: Option<Within>,
    /// Keep the newest of each year within a time of the newest
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    keep_within_yearly: Option<Within>,
    /// Keep those that have all of these labels; can be given more than once
    #[arg(long = "keep-tag", visible_alias = "keep-label", value_name = "KEY[=VALUE][,...]", help_heading = HEADING)]
    keep_tags: Vec<Labels>,
    #[command(flatten)]
    secret: SecretArgs,
}

impl SnapshotPruneArgs {
    fn rules(&self) -> KeepRules {
        KeepRules {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            within_hourly: self.keep_within_hourly,
            within_daily: self.keep_within_daily,
            within_weekly: self.keep_within_weekly,
            within_monthly: self.keep_within_monthly,
            within_yearly: self.keep_within_yearly,
            labels: self.keep_tags.clone(),
        }
    }
}

#[derive(Serialize)]
struct Decision {
    volume: String,
    keep: Vec<Kept>,
    #[serde(serialize_with = "as_shown")]
    remove: Vec<SnapshotInfo>,
}

#[derive(Serialize)]
struct Kept {
    #[serde(flatten, serialize_with = "one_as_shown")]
    snapshot: SnapshotInfo,
    reasons: Vec<String>,
}

/// As all commands show snapshots.
fn as_shown<S: Serializer>(all: &[SnapshotInfo], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(all.iter().cloned().map(Snapshot::from))
}

fn one_as_shown<S: Serializer>(one: &SnapshotInfo, out: S) -> Result<S::Ok, S::Error> {
    Snapshot::from(one.clone()).serialize(out)
}

impl Decision {
    fn new(volume: &str, verdicts: Vec<Verdict<'_>>) -> Self {
        let (mut keep, mut remove) = (Vec::new(), Vec::new());
        for Verdict { snapshot, mut reasons } in verdicts {
            let snapshot = snapshot.clone();
            // It counts like the others.
            if !snapshot.holds.is_empty() {
                reasons.push(format!("held ({})", snapshot.holds.join(", ")));
            }
            if reasons.is_empty() { remove.push(snapshot) } else { keep.push(Kept { snapshot, reasons }) }
        }
        Self { volume: volume.to_owned(), keep, remove }
    }
}

pub(super) fn run(context: &Context, args: &SnapshotPruneArgs) -> CommandResult {
    let rules = args.rules();
    if rules.is_empty() {
        let what = "no rule says what to keep, so nothing is removed; give --keep-daily 7, --keep-within 1y or the like";
        return Err(VolumeError::new(Exit::Usage, what));
    }
    let volumes = match args.all {
        true => context.root.names().map_err(|e| VolumeError::io(&context.root.volumes(), &e))?,
        false => args.volumes.clone(),
    };
    let selections =
        volumes.iter().map(|text| Selection::parse_any(text)).collect::<volume::Result<Vec<_>>>()?;
    let (mut exit, mut decisions) = (Exit::Ok, Vec::new());
    for selection in &selections {
        match prune(context, args, &rules, selection) {
            Ok((decision, end)) => {
                decisions.push(decision);
                exit = if end == Exit::Ok { exit } else { end };
            }
            // All that an interrupted command left of a volume is its name.
            Err(e) if args.all && e.exit == Exit::NoVolume => {}
            // The others are seen to all the same.
            Err(e) => {
                output::error(e.clone().context(&format!("volume {:?}", selection.volume)));
                exit = e.exit;
            }
        }
    }
    if context.json {
        output::json(&decisions)?;
    }
    Ok(exit)
}

/// Sees to the snapshots of a volume. What was decided is shown before it is done.
fn prune(
    context: &Context,
    args: &SnapshotPruneArgs,
    rules: &KeepRules,
    selection: &Selection,
) -> volume::Result<(Decision, Exit)> {
    let volume = selection.volume.as_str();
    let secret = if args.all { all_secrets(&args.secret) } else { args.secret.named() };
    let question = Question::reading(&context.root, volume, Some(&secret));
    let all = snapshots(&question)?;
    let mut chosen = selection.choose(&all)?;
    chosen.retain(|snapshot| args.tags.is_empty() || args.tags.iter().any(|labels| labels.are_of(snapshot)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let decision = Decision::new(volume, rules.apply(chosen, now, &TimeZone::system()));
    if decision.keep.is_empty() && !decision.remove.is_empty() {
        let what = format!(
            "the rules keep none of {} snapshots, so none is removed; `larder snapshot rm '{volume}@*'` removes them all",
            decision.remove.len()
        );
        return Err(VolumeError::new(Exit::Usage, what));
    }
    if !context.json {
        show(&decision, args.dry_run)?;
    }
    let mut exit = Exit::Ok;
    if !args.dry_run {
        remove(question.to_change(), volume, &decision.remove, |name, result| {
            if let Err(e) = result {
                output::error(e.clone().context(&format!("cannot remove {name:?}")));
                exit = e.exit;
            }
            Ok(())
        })?;
    }
    Ok((decision, exit))
}

fn show(decision: &Decision, is_dry: bool) -> volume::Result<()> {
    let keep = decision.keep.iter().map(|kept| (&kept.snapshot, kept.reasons.join(", ")));
    let fate = if is_dry { "(would be removed)" } else { "(removed)" };
    let remove = decision.remove.iter().map(|snapshot| (snapshot, fate.to_owned()));
    let row = |(snapshot, why): (&SnapshotInfo, String)| {
        vec![format!("{}@{}", decision.volume, snapshot.name), time(snapshot.created), why]
    };
    let rows: Vec<Vec<String>> = keep.chain(remove).map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::table(&["SNAPSHOT", "CREATED", "KEPT AS"], &rows)
}
