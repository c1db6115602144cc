//! What systemd starts as the next main process of a unit, as far as its command says.
//!
//! Often that is a wrapper, which cannot be asked what it can take over: it says nothing, or does something else. What it leads to is
//! read from the command, and from a shell script. Where that is not certain, nothing is said, because a server that is killed for the
//! wrong program leaves a dead mount.

use super::HolderOptions;
use super::program::Program;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longer scripts are not read.
const MAX_SCRIPT: u64 = 64 << 10;
/// The command that mounts.
const MOUNT: &str = "mount";
/// What runs the command that follows, in the same tree of files.
const WRAPPERS: [&str; 15] = [
    "env", "nice", "ionice", "chrt", "taskset", "setpriv", "prlimit", "numactl", "choom", "nohup", "setsid",
    "stdbuf", "sh", "bash", "dash",
];
/// What stands before a command in a shell.
const WORDS: [&str; 11] =
    ["exec", "command", "if", "then", "else", "elif", "do", "while", "until", "time", "!"];
/// What runs text that is somewhere else.
const INCLUDES: [&str; 3] = ["eval", "source", "."];

/// A command of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) program: PathBuf,
    /// All of its words with spaces between, as systemd says them.
    pub(super) words: String,
}

/// Why what a unit starts next cannot take over, or is not known to.
pub(super) fn why_not(command: Option<&Command>, options: &HolderOptions) -> Option<String> {
    let Some(command) = command else {
        return Some("systemd does not say which program it starts next".into());
    };
    let Some(programs) = programs(command) else {
        return Some(format!(
            "the unit starts {}, and which larder mounts then cannot be told from that; let ExecStart= name it, or a shell script \
             that mounts with nothing but `exec /usr/bin/larder mount ...`",
            command.program.display()
        ));
    };
    programs.iter().find_map(|program| Program::offered(program, options).err())
}

/// The programs that may be the one that mounts, each of which is to be asked; `None` where that is not certain.
fn programs(command: &Command) -> Option<Vec<PathBuf>> {
    let name = file_name(command.program.to_str()?);
    if is_larder(name) || is_called_like_larder(&command.words) {
        return Some(vec![command.program.clone()]);
    }
    let text = if WRAPPERS.contains(&name) { command.words.clone() } else { shell_script(&command.program)? };
    mounting(&text)?.iter().map(|word| found(word, &text)).collect()
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Whether this is what this program is called, whatever became of its file.
fn is_larder(name: &str) -> bool {
    let own = std::env::current_exe().unwrap_or_default();
    let own = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "larder" || name == own.trim_end_matches(" (deleted)")
}

/// Whether the first words after the program are what larder's would be: it is one, or passes on what it is asked.
fn is_called_like_larder(words: &str) -> bool {
    let mut words = words.split_whitespace().skip(1);
    while let Some(word) = words.next() {
        match word {
            "--root" => drop(words.next()),
            _ if word.starts_with('-') => {}
            _ => return word == MOUNT,
        }
    }
    false
}

/// What is in a file, if that is a script for a shell.
fn shell_script(path: &Path) -> Option<String> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|file| file.is_file()))?;
    let mut text = String::new();
    file.take(MAX_SCRIPT + 1).read_to_string(&mut text).ok()?;
    let mut interpreter = text.strip_prefix("#!")?.lines().next()?.split_whitespace().map(file_name);
    let shell = interpreter.find(|word| *word != "env")?;
    (text.len() as u64 <= MAX_SCRIPT && ["sh", "bash", "dash"].contains(&shell)).then_some(text)
}

/// The words that name larder in those commands of a shell's that mount with it; `None` where something else may be what mounts.
fn mounting(text: &str) -> Option<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut all = Vec::new();
    for command in lines.flat_map(|line| line.split([';', '&', '|', '(', ')', '{', '}', '`'])) {
        let words: Vec<&str> =
            command.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        let Some(at) = words.iter().position(|word| !is_before(word)) else { continue };
        let (before, program) = (&words[..at], words[at]);
        let mounts = words[at + 1..].contains(&MOUNT);
        if is_larder(file_name(program)) && mounts {
            all.push(program.to_owned());
        } else if mounts || before.contains(&"exec") || INCLUDES.contains(&program) {
            return None;
        }
    }
    (!all.is_empty()).then_some(all)
}

/// Whether a word can stand before the program of a command: a wrapper, an option, a number, a variable, where output goes.
fn is_before(word: &str) -> bool {
    WRAPPERS.contains(&file_name(word))
        || WORDS.contains(&word)
        || word.is_empty()
        || word.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        || word.contains(['=', '<', '>'])
}

/// The file that a word of `text` names as a program.
fn found(word: &str, text: &str) -> Option<PathBuf> {
    if word.contains('$') || word.contains('/') {
        return (word.starts_with('/') && !word.contains('$')).then(|| word.into());
    }
    // Where it is looked for is not known otherwise.
    let path = std::env::var_os("PATH").filter(|_| !text.contains("PATH="))?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(word))
        .find(|file| fs::metadata(file).is_ok_and(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LARDER: &str = "/opt/larder/bin/larder";

    fn leads_to(words: &str) -> Option<Vec<PathBuf>> {
        let program = words.split(' ').next().unwrap().into();
        programs(&Command { program, words: words.into() })
    }

    #[test]
    fn what_a_wrapper_leads_to_is_asked_and_not_the_wrapper() {
        for words in [
            "/opt/larder/bin/larder mount --foreground v /mnt",
            "/usr/bin/nice -n 5 /opt/larder/bin/larder mount --foreground v /mnt",
            "/usr/bin/env LARDER_WATCHDOG=off ionice -c3 /opt/larder/bin/larder --root /r mount --foreground v /mnt",
            "/bin/sh -c mkdir -p /mnt && exec /opt/larder/bin/larder mount --foreground $OPTIONS v /mnt",
            "/bin/bash -ec \"sleep 1; /opt/larder/bin/larder create v || true; exec '/opt/larder/bin/larder' mount v /mnt\"",
        ] {
            assert_eq!(leads_to(words), Some(vec![LARDER.into()]), "{words}");
        }
        // What has larder's words is larder by another name, or passes them on.
        for words in ["/opt/l2 mount --foreground v /mnt", "/opt/l2 -v --root /r mount --foreground v /mnt"] {
            assert_eq!(leads_to(words), Some(vec!["/opt/l2".into()]), "{words}");
        }
        let two = leads_to("/bin/sh -c /a/larder mount v /mnt || exec /b/larder mount v /mnt");
        assert_eq!(two, Some(vec!["/a/larder".into(), "/b/larder".into()]));
    }

    /// A server is killed for what is known to be able to take over, and for nothing else.
    #[test]
    fn what_may_lead_anywhere_is_not_guessed() {
        for words in [
            "/bin/sh -c exec $LARDER mount v /mnt",
            "/bin/sh -c exec ${PREFIX}/larder mount v /mnt",
            "/bin/sh -c exec ./larder mount v /mnt",
            "/bin/sh -c PATH=/opt/old exec larder mount v /mnt",
            "/bin/sh -c test -e /old && exec /opt/old/run v; exec /opt/larder/bin/larder mount v /mnt",
            "/bin/sh -c . /etc/run; exec /opt/larder/bin/larder mount v /mnt",
            "/bin/sh -c chroot /old /usr/bin/larder mount v /mnt",
            "/usr/bin/nice chroot /old /usr/bin/larder mount v /mnt",
            "/usr/sbin/chroot /old /usr/bin/larder mount v /mnt",
            "/usr/bin/flock /lock /usr/bin/larder mount v /mnt",
            "/bin/sh -c sleep 600",
            "/no/such/file v",
            "/dev/null v",
        ] {
            assert_eq!(leads_to(words), None, "{words}");
        }
    }

    #[test]
    fn a_script_of_a_shell_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let script = tmp.path().join("run");
        let leads_to = |text: &str| {
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            leads_to(&format!("{} v", script.display()))
        };
        let text = "#!/bin/sh -e\n# mounts, as mount(8) does\nmount --make-shared /mnt\nif [ -x /opt/larder/bin/larder ]; then\n  \
                    exec 2>/tmp/log\n  exec nice -n -5 \\\n    /opt/larder/bin/larder mount \\\n    --foreground \"$1\" /mnt\nfi\n";
        assert_eq!(leads_to(text), Some(vec![LARDER.into()]));
        let text = text.replace("/bin/sh -e", "/usr/bin/env bash");
        assert_eq!(leads_to(&text), Some(vec![LARDER.into()]));
        assert_eq!(leads_to(&text.replace("env bash", "python3")), None);
        assert_eq!(leads_to(&text.replace("exec nice", "exec /opt/run")), None);
        assert_eq!(leads_to(&format!("{text}{}", "#".repeat(MAX_SCRIPT as usize))), None);
    }
}
