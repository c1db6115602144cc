//! What clap guesses was meant, without what would remove something: a mistake is not to end in a loss.

use clap::Error;
use clap::error::{ContextKind, ContextValue};

/// Commands and options that remove or replace something, take it from somebody, or keep from asking before.
const REMOVING: &[&str] = &[
    "rm",
    "remove",
    "prune",
    "forget",
    "erase",
    "release",
    "empty",
    "rollback",
    "detach",
    "rotate",
    "accept-older",
    "--force",
    "--now",
    "--lazy",
    "--all",
    "--live",
    "--unset",
    "--steal",
    "--remove-remote",
    "--discard",
    "--expired",
    "--lost",
    "--acknowledge",
    "--ignore-silent-engines",
];
/// Those of them that no usage shows as what would have to be added.
const NOT_TO_ADD: &[&str] =
    &["--force", "--now", "--lazy", "--live", "--steal", "--remove-remote", "--discard"];

/// How an option is shown that was given, or that the environment has.
const ROOT: &str = "--root <DIR>";

/// What is meant by commands that other programs have.
fn elsewhere(word: &str) -> Option<&'static str> {
    Some(match word {
        "help" => "`larder COMMAND --help` explains a command, and `larder --help` lists them",
        "version" => "`larder --version` says which version this is",
        "volume" | "volumes" => {
            "commands for volumes stand by themselves, as in `larder ls` and `larder create`"
        }
        "mv" => "`larder rename` gives a volume another name",
        "cp" | "copy" => "`larder clone` makes a copy of a volume",
        "info" | "show" => "`larder inspect` shows everything about a volume",
        "snapshots" => "`larder snapshot ls VOLUME` lists the snapshots of a volume",
        _ => return None,
    })
}

/// Takes guesses out of an error that would remove something.
pub(super) fn harmless(mut e: Error) -> Error {
    let removes = |guess: &String| REMOVING.contains(&guess.as_str());
    for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
        match e.remove(kind) {
            Some(ContextValue::Strings(mut guesses)) => {
                guesses.retain(|guess| !removes(guess));
                if !guesses.is_empty() {
                    e.insert(kind, ContextValue::Strings(guesses));
                }
            }
            Some(ContextValue::String(guess)) if removes(&guess) => {}
            Some(other) => {
                e.insert(kind, other);
            }
            None => {}
        }
    }
    // What comes from the environment is shown as if it had to be given.
    if let Some(ContextValue::StyledStr(usage)) = e.get(ContextKind::Usage)
        && let usage = usage.to_string()
        && usage.contains(ROOT)
    {
        let usage = usage.replace(ROOT, "[OPTIONS]").replace("[OPTIONS] [OPTIONS]", "[OPTIONS]");
        e.insert(ContextKind::Usage, ContextValue::StyledStr(usage.into()));
    }
    let tips = e.get(ContextKind::InvalidSubcommand).and_then(|word| match word {
        ContextValue::String(word) => elsewhere(word),
        _ => None,
    });
    if let Some(tip) = tips {
        e.remove(ContextKind::SuggestedSubcommand);
        e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    // So does a usage that shows what would have to be added.
    let usage = e.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let ends_servers = usage.contains("umount") && e.to_string().contains("--force");
    if usage.split([' ', '|', '[', '<', '>', ']']).any(|word| NOT_TO_ADD.contains(&word)) {
        e.remove(ContextKind::Usage);
    }
    if ends_servers {
        let tip = "`larder umount --lazy DIR` unmounts what programs still use, without ending them";
        e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        return e;
    }
    // Whole sentences, which may say the same.
    if let Some(ContextValue::StyledStrs(tips)) = e.remove(ContextKind::Suggested) {
        let is_harmless = |tip: &clap::builder::StyledStr| {
            !tip.to_string().split(['\'', ' ']).any(|word| REMOVING.contains(&word))
        };
        let tips: Vec<_> = tips.into_iter().filter(is_harmless).collect();
        if !tips.is_empty() {
            e.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
    e
}

#[cfg(test)]
mod tests {
    use super::super::args::Args;
    use super::*;
    use clap::{CommandFactory, Parser};

    /// Commands that may be guessed.
    const HARMLESS: &[&str] = &[
        "create",
        "snapshot",
        "ls",
        "list",
        "rename",
        "clone",
        "hold",
        "diff",
        "resize",
        "logs",
        "inspect",
        "guard",
        "mount",
        "umount",
        "unmount",
        "trash",
        "restore",
        "get",
        "set",
        "df",
        "check",
        "config",
        "show",
        "status",
        "scrub",
        "find",
        "key",
        "add",
        "reencrypt",
        "attach",
        "remote",
        "sync",
        "history",
        "upgrade",
        "plugin",
        "completions",
        "man",
        "serve",
    ];

    #[test]
    fn nothing_that_removes_is_guessed() {
        let said = |words: &[&str]| {
            let args = std::iter::once("larder").chain(words.iter().copied());
            harmless(Args::try_parse_from(args).unwrap_err()).to_string()
        };
        for words in [
            &["r", "db"][..],
            &["rmm", "db"],
            &["remov", "db"],
            &["prun"],
            &["pru", "--force"],
            &["trash", "empt"],
            &["trash", "emtpy"],
            &["snapshot", "r", "db@one"],
            &["key", "rmm", "db", "0"],
            &["rm", "--forc", "db"],
            &["rm", "--no", "db"],
            &["prune", "--forcee"],
            &["umount", "--laz", "db"],
            &["umount", "db", "--al"],
            &["detatch", "db"],
            &["remote", "detch", "db"],
            &["remote", "rmm", "file:///x"],
            &["remote", "erse", "file:///x"],
            &["remote", "accept-oldr", "db"],
            &["rolback", "db@one"],
            &["rollback", "db@one", "--liv"],
            &["key", "rotat", "db"],
            &["attach", "file:///x", "--stea"],
            &["rm", "db", "--remove-remot"],
            &["set", "db", "--unse", "a"],
            &["trash", "empty", "--expird"],
            &["status", "--acknowledg", "db"],
        ] {
            let said = said(words);
            let tips: Vec<&str> = said.lines().filter(|line| line.contains("tip:")).collect();
            let names = |word: &&str| tips.iter().any(|tip| tip.contains(&format!("'{word}'")));
            assert!(!REMOVING.iter().any(names), "{words:?}: {said}");
        }
        // A new command is one of the two kinds.
        let mut pending = vec![Args::command()];
        while let Some(command) = pending.pop() {
            for inner in command.get_subcommands() {
                for name in std::iter::once(inner.get_name()).chain(inner.get_all_aliases()) {
                    let kinds = (REMOVING.contains(&name), HARMLESS.contains(&name));
                    assert!(kinds.0 != kinds.1, "is {name:?} among REMOVING or HARMLESS?");
                }
                pending.push(inner.clone());
            }
        }
        // What everybody tries on a busy mount is not answered by what would end all servers.
        for words in [&["umount", "--force", "db"][..], &["umount", "db", "--force"], &["umount", "-f", "db"]]
        {
            let said = said(words);
            assert!(
                said.contains("larder umount --lazy") && !said.contains("--all --force"),
                "{words:?}: {said}"
            );
            assert!(!said.contains("Usage: larder umount --"), "{words:?}: {said}");
        }
        // Words of other programs.
        assert!(said(&["volume", "ls"]).contains("larder ls"), "{}", said(&["volume", "ls"]));
        assert!(said(&["help", "mount"]).contains("larder COMMAND --help"));
        assert!(said(&["mv", "a", "b"]).contains("larder rename"));
        // What does no harm is still guessed.
        assert!(said(&["crate", "db"]).contains("'create'"), "{}", said(&["crate", "db"]));
        assert!(said(&["creat", "db"]).contains("'create'"));
        assert!(said(&["create", "db", "--siz", "1G"]).contains("'--size'"));
    }
}
