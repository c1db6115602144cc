//! `larder completions`: what shells run to complete a command line, and what they are told then.
//!
//! A shell runs this program again, with [`VARIABLE`] in its environment, and gets the words that may come next: commands and options as
//! clap knows them, and the names of volumes and snapshots that there are at that moment.

use super::args::{Args, CompletionsArgs};
use super::{CommandResult, find_root};
use crate::exit_code::Exit;
use crate::host::{look_for, names, trash};
use crate::root::{Root, default_root};
use crate::volume::VolumeError;
use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};
use clap_complete::{Shell, generate};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// In the environment of this program, says which shell asks.
const VARIABLE: &str = "LARDER_COMPLETE";
/// Who waits for a completion does not wait long.
const PATIENCE: Duration = Duration::from_secs(1);
/// For bash, `@` ends a word, and what completes a word is only what comes after that.
const BASH: &str = r#"_larder() {
    local IFS=$'\013' words=() word joins= before= i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $i -lt $COMP_CWORD || $word == @ ]] || word=$2
        if [[ ${#words[@]} -gt 1 && ( $word == @* || -n $joins ) ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        joins=
        [[ $word != *@ ]] || joins=1
    done
    word=${words[${#words[@]}-1]}
    [[ $word != *@* || $COMP_WORDBREAKS != *@* ]] || before=${word%@*}@
    COMPREPLY=($(_CLAP_IFS=$IFS _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) LARDER_COMPLETE=bash larder -- "${words[@]}"))
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [[ ${COMPREPLY-} == *[=/:@] ]] || compopt +o nospace 2>/dev/null
}
complete -o nospace -o bashdefault -F _larder larder
"#;

pub(super) fn run(args: &CompletionsArgs) -> CommandResult {
    let mut out = io::stdout();
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => {
            out.write_all(BASH.as_bytes()).map_err(failed)?;
            return Ok(Exit::Ok);
        }
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::PowerShell => &Powershell,
        Shell::Zsh => &Zsh,
        // One that the rest of this knows nothing of.
        other => {
            generate(other, &mut Args::command(), "larder", &mut out);
            return Ok(Exit::Ok);
        }
    };
    shell.write_registration(VARIABLE, "larder", "larder", "larder", &mut out).map_err(failed)?;
    Ok(Exit::Ok)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn failed(e: io::Error) -> VolumeError {
    VolumeError::new(Exit::HostIo, format!("standard output: {e}"))
}

/// Answers a shell, if one asks.
pub(super) fn answer(args: &[OsString]) -> Option<Exit> {
    std::env::var_os(VARIABLE)?;
    let shells = Shells::builtins();
    let dir = std::env::current_dir().ok();
    match CompleteEnv::with_factory(|| with_names(Args::command()))
        .var(VARIABLE)
        .shells(shells)
        .try_complete(args.iter(), dir.as_deref())
    {
        Ok(true) => Some(Exit::Ok),
        Ok(false) => None,
        Err(_) => Some(Exit::Usage),
    }
}

/// The command, whose arguments know the names that there are.
fn with_names(command: Command) -> Command {
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| match completer(&name, &arg) {
            Some(completer) => arg.add(ArgValueCompleter::new(completer)),
            None => arg,
        })
        .mut_subcommands(with_names)
}

/// What an argument of a command names, by what it is called in the manual.
fn completer(command: &str, arg: &Arg) -> Option<fn(&OsStr) -> Vec<CompletionCandidate>> {
    let called = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str().to_owned());
    match called.as_deref()? {
        // A new name.
        "NAME" if matches!(command, "create" | "clone" | "attach") => None,
        "NAME" if command == "mount" => Some(both),
        "NAME" | "NAMES" | "VOLUME" | "VOLUMES" | "DIR|NAME" | "NAME|URL" => Some(volumes),
        "VOLUME@SNAPSHOT" => Some(snapshots),
        "VOLUME[@SNAPSHOT]" | "VOLUME[@PATTERN]" => Some(both),
        "NAME|ID" => Some(trashed),
        _ => None,
    }
}

/// The root that the command line, as far as it is typed, or the environment says.
fn root() -> Root {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let said = words.iter().enumerate().find_map(|(at, word)| match word.to_str()? {
        "--root" => words.get(at + 1).cloned(),
        other => other.strip_prefix("--root=").map(OsString::from),
    });
    let given = said.or_else(|| std::env::var_os("LARDER_ROOT"));
    find_root(given.as_deref().map(Path::new)).map_or_else(|_| Root::new(default_root()), |(root, _)| root)
}

fn candidates(all: impl IntoIterator<Item = String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_str().unwrap_or("\0");
    all.into_iter().filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

fn volumes(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(names(&root()).unwrap_or_default(), current)
}

/// What is in the trash, by name and by ID.
fn trashed(current: &OsStr) -> Vec<CompletionCandidate> {
    let all = trash::items(&root()).unwrap_or_default();
    let words: BTreeSet<String> = all.iter().flat_map(|of| [of.name().to_owned(), of.id()]).collect();
    candidates(words, current)
}

/// Snapshots of the volume that is typed; before that, volumes.
fn snapshots(current: &OsStr) -> Vec<CompletionCandidate> {
    let root = root();
    match current.to_str().and_then(|text| text.split_once('@')) {
        Some((volume, _)) => candidates(snapshots_of(&root, volume), current),
        None => candidates(names(&root).unwrap_or_default().into_iter().map(|name| name + "@"), current),
    }
}

fn both(current: &OsStr) -> Vec<CompletionCandidate> {
    if current.to_str().is_some_and(|text| text.contains('@')) {
        snapshots(current)
    } else {
        volumes(current)
    }
}

/// `VOLUME@SNAPSHOT` for all there are, if that can be found out without a secret and at once.
fn snapshots_of(root: &Root, volume: &str) -> Vec<String> {
    let look = look_for(root, volume, None, PATIENCE);
    look.map_or(Vec::new(), |look| {
        look.info.snapshots.iter().map(|it| format!("{volume}@{}", it.name)).collect()
    })
}
