//! What systemd starts as the next main process of a unit, as far as its command says.
//!
//! A server is killed only for what is known to be larder, to mount the same volume, and to be the main process itself: nobody else
//! gets what is left in systemd's store, and the mount would be dead. So little is understood here, and everything else is not known.

use super::HolderOptions;
use super::program::{self, Program};
use crate::root::default_root;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longer scripts are not read.
const MAX_SCRIPT: u64 = 64 << 10;
/// The command that mounts.
const MOUNT: &str = "mount";
/// What becomes the command that follows, and leaves it the environment.
const WRAPPERS: [&str; 10] =
    ["env", "nice", "ionice", "chrt", "taskset", "prlimit", "numactl", "choom", "nohup", "stdbuf"];
const SHELLS: [&str; 3] = ["sh", "bash", "dash"];
/// What a shell may do before: it says nothing of what comes after, and looks at no file, least of all at the mountpoint, which
/// nobody serves then.
const HARMLESS: [&str; 5] = [":", "true", "echo", "sleep", "umask"];
/// Variables by which larder finds out what it is to serve, or that it was given something; none of systemd's may be replaced.
const VARIABLES: [&str; 6] = ["LISTEN_", "NOTIFY_", "LARDER_ROOT", "PATH", "HOME", "XDG_DATA_HOME"];

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
    let shown = command.program.display().to_string();
    let (command, options) = (command.clone(), options.clone());
    let asked = program::in_time(move || {
        let Some(path) = leads_to(&command, &options) else {
            return Err(format!(
                "the unit starts {}, and that this becomes the larder that mounts the same volume cannot be told from that; let \
                 ExecStart= be `/usr/bin/larder mount --foreground ...`, or a shell script with nothing but `exec` before that",
                command.program.display()
            ));
        };
        // What others than root can change is not run as root.
        let program = Program::open(&path)?;
        if !program.is_of_root() {
            return Err(format!("{} can be changed by others than root", path.display()));
        }
        program.asked(&options).and_then(Program::itself)
    });
    match asked {
        Some(answer) => answer.err(),
        None => Some(format!("what {shown} leads to cannot be found out in time")),
    }
}

/// The program that the main process is in the end; `None` where that is not certain, or it is not known to mount the same.
fn leads_to(command: &Command, options: &HolderOptions) -> Option<PathBuf> {
    let name = command.program.to_str().filter(|_| command.program.is_absolute())?;
    let rest = command.words.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
    let (program, words) = if SHELLS.contains(&file_name(name)) {
        of_shell(rest)?
    } else {
        let words: Vec<String> =
            std::iter::once(name).chain(rest.split_whitespace()).map(str::to_owned).collect();
        let (program, words) = direct(&words)?;
        match script(&program).ok()? {
            // What is called so takes larder's words, whatever it is, and is asked which process it becomes.
            Some(text) if !is_larder(&program) => of_text(text, words)?,
            _ => (program, words.to_vec()),
        }
    };
    let is_other = !is_larder(&program) && script(&program).ok()?.is_some();
    (!is_other && mounts(&words, options)).then_some(program)
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Whether this is what this program is called, whatever became of its file.
fn is_larder(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "larder")
}

/// The program at the end of a chain of wrappers, and the words after it.
fn direct(mut words: &[String]) -> Option<(PathBuf, &[String])> {
    loop {
        let (first, rest) = words.split_first()?;
        let name = file_name(first);
        if !WRAPPERS.contains(&name) {
            // Where a bare name is looked for is not known.
            let is_known = first.starts_with('/') && !first.contains('$') && !SHELLS.contains(&name);
            return is_known.then(|| (first.into(), rest));
        }
        let is_of_wrapper = |word: &&String| match name {
            "env" => is_variable(word),
            _ => word.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
        };
        words = &rest[rest.iter().take_while(is_of_wrapper).count()..];
    }
}

/// Whether env(1) sets a variable with this that is none of those that matter.
fn is_variable(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !VARIABLES.iter().any(|begin| name.starts_with(begin))
    })
}

/// What a shell with these words becomes, and the words after that.
fn of_shell(rest: &str) -> Option<(PathBuf, Vec<String>)> {
    let (mut rest, mut is_text) = (rest.trim_start(), false);
    while let Some(options) = rest.strip_prefix('-') {
        let (letters, others) = options.split_once(' ')?;
        if letters.is_empty() || letters.contains(|c| !"cex".contains(c)) {
            return None;
        }
        is_text |= letters.contains('c');
        rest = others.trim_start();
    }
    if is_text {
        return of_text(rest.to_owned(), &[]);
    }
    let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    let (path, words) = words.split_first().filter(|(path, _)| path.starts_with('/'))?;
    of_text(script(Path::new(path)).ok()??, words)
}

/// The text of a script for a shell; `None` of a file that is no script.
///
/// # Errors
/// As open(2) and read(2), and `InvalidData` for a script that is too long, that is for something else than a shell, or that others than
/// root can change.
fn script(path: &Path) -> io::Result<Option<String>> {
    let program = Program::open(path).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    let mut file = program.file().ok_or(io::ErrorKind::InvalidData)?.take(MAX_SCRIPT + 1);
    (&mut file).take(2).read_to_end(&mut bytes)?;
    if bytes != b"#!" {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_SCRIPT);
    text.filter(|text| is_for_shell(text) && program.is_of_root())
        .map(Some)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn is_for_shell(script: &str) -> bool {
    let first = script.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or_default();
    let mut words = first.split_whitespace();
    let shell = match words.next().map(file_name) {
        Some("env") => words.next().map(file_name),
        other => other,
    };
    let is_option = |word: &str| ["-e", "-x", "-ex", "-xe"].contains(&word);
    shell.is_some_and(|shell| SHELLS.contains(&shell)) && words.all(is_option)
}

/// What a shell becomes whose text this is, if it does nothing else that matters, and the words after that. `given`: what the text has as
/// `$1` and so on.
fn of_text(text: String, given: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let (mut commands, mut open) = (Vec::new(), String::new());
    for line in text.lines() {
        if open.is_empty() && line.trim_start().starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begin) => open.push_str(begin),
            None => {
                open.push_str(line);
                let parts = open.split(';').flat_map(|part| part.split("&&"));
                commands.extend(parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()));
                open.clear();
            }
        }
    }
    let (last, before) = commands.split_last().filter(|_| open.is_empty())?;
    let is_harmless = |command: &String| {
        let words = words_of(command).unwrap_or_default();
        match words.first().map(String::as_str) {
            Some("set") => words[1..].iter().all(|word| ["-e", "-x", "-ex", "-xe"].contains(&word.as_str())),
            Some(first) => HARMLESS.contains(&first),
            None => false,
        }
    };
    if !before.iter().all(is_harmless) {
        return None;
    }
    let words = words_of(last)?;
    let (first, words) = words.split_first()?;
    let words: Vec<String> = words.iter().flat_map(|word| replaced(word, given)).collect();
    let (program, words) = direct(&words).filter(|_| first == "exec")?;
    Some((program, words.to_vec()))
}

/// The words of a command of a shell's; `None` if the shell may make anything else of it.
fn words_of(command: &str) -> Option<Vec<String>> {
    let word = |word: &str| {
        let is_of = |quote: char| word.len() > 1 && word.starts_with(quote) && word.ends_with(quote);
        let inner = if is_of('"') || is_of('\'') { &word[1..word.len() - 1] } else { word };
        let is_plain = inner.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:,@%$".contains(c));
        // Between these quotes, a variable is none.
        (is_plain && !(is_of('\'') && inner.contains('$'))).then(|| inner.to_owned())
    };
    command.split_whitespace().map(word).collect()
}

/// What a shell makes of a word, as far as that is known.
fn replaced(word: &str, given: &[String]) -> Vec<String> {
    match word.strip_prefix('$') {
        Some("@" | "*") => given.to_vec(),
        Some(number) if number.len() == 1 && number != "0" && number.parse::<usize>().is_ok() => {
            number.parse().ok().and_then(|number: usize| given.get(number - 1)).cloned().into_iter().collect()
        }
        _ => vec![word.to_owned()],
    }
}

/// Whether these words of larder's mount the volume of the unit, from the same root, in the process itself.
fn mounts(words: &[String], options: &HolderOptions) -> bool {
    let mut before = words.iter().map(String::as_str);
    let is_mount = loop {
        match before.next() {
            Some("--root") => drop(before.next()),
            Some(word) if word.starts_with("--root=") || ["-v", "-vv", "--verbose"].contains(&word) => {}
            other => break other == Some(MOUNT),
        }
    };
    let has = |what: &str| words.iter().any(|word| word == what);
    let named =
        words.iter().flat_map(|word| word.split(',')).filter_map(|part| Some(part.split_once("root=")?.1));
    let after = words.windows(2).filter(|two| two[0] == "--root").map(|two| two[1].as_str());
    let roots: Vec<&str> = named.chain(after).collect();
    // Where a variable may name it, whoever gets what is left finds out.
    let is_same = if roots.is_empty() && !words.iter().any(|word| word.contains('$')) {
        let usual = std::env::var_os("LARDER_ROOT").map_or_else(default_root, PathBuf::from);
        usual == options.root.path()
    } else {
        roots.iter().all(|root| Path::new(root) == options.root.path())
    };
    is_mount && is_same && (has("--foreground") || has("-f")) && options.unit.as_deref().is_some_and(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Root;
    use crate::store::StoreId;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Of a unit that mounts volume `v` of root `/r`.
    fn options() -> HolderOptions {
        HolderOptions {
            root: Root::new("/r"),
            store: StoreId(1),
            cache_bytes: 0,
            verbose: 0,
            log_to_file: false,
            unit: Some("v".into()),
        }
    }

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// What a command leads to in which `L` stands for a program called larder, `M` for the words with which it mounts, `S` for a script
    /// with this text, and `B` for a program of another name.
    fn leads_to(words: &str, text: &str) -> Option<String> {
        let tmp = tempfile::tempdir().unwrap();
        let larder = file(tmp.path(), "larder", "\x7fELF").display().to_string();
        let other = file(tmp.path(), "other", "\x7fELF").display().to_string();
        let with = |text: &str| {
            let words = text.split_inclusive([' ', '\n', '\'', '"', ';']);
            let replaced = words.map(|part| {
                let word = part.trim_end_matches([' ', '\n', '\'', '"', ';']);
                let end = &part[word.len()..];
                let all = match word {
                    "L" => larder.clone(),
                    "B" => other.clone(),
                    "M" => "--root /r mount --foreground v /mnt".to_owned(),
                    "S" => tmp.path().join("script").display().to_string(),
                    other => other.to_owned(),
                };
                all + end
            });
            replaced.collect::<String>()
        };
        file(tmp.path(), "script", &with(text));
        let words = with(words);
        let program = words.split(' ').next().unwrap().into();
        let found = super::leads_to(&Command { program, words: words.clone() }, &options())?;
        Some(found.file_name().unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn what_becomes_the_larder_that_mounts_the_same_is_asked() {
        for words in [
            "L M",
            "L -v --root=/r mount -f $OPTIONS v /mnt",
            "L mount --foreground -o noatime,root=/r v /mnt",
            "L mount --foreground $OPTIONS v /mnt",
            "/usr/bin/nice -n 5 L M",
            "/usr/bin/env LARDER_WATCHDOG=off ionice -c3 L M",
            "/bin/sh -c exec L M",
            "/bin/bash -ec umask 022; sleep 1 && exec 'L' M",
            "/bin/sh -c set -e\n# mounts, as mount(8) does\nexec nice -n -5 \\\n  L M\n",
        ] {
            assert_eq!(leads_to(words, "").as_deref(), Some("larder"), "{words}");
        }
        // What has larder's words is larder by another name.
        assert_eq!(leads_to("B M", "").as_deref(), Some("other"));
        for text in [
            "#!/bin/sh -e\n# note\nexec L --root /r mount --foreground \"$1\" /mnt\n",
            "#!/usr/bin/env bash\nexec nice -n 1 \\\n L --root /r mount \\\n --foreground \"$@\"\n# end",
        ] {
            assert_eq!(leads_to("S v /mnt", text).as_deref(), Some("larder"), "{text}");
            assert_eq!(leads_to("/bin/sh S v /mnt", text).as_deref(), Some("larder"), "{text}");
            assert_eq!(leads_to("S w /mnt", text), None, "{text}");
        }
    }

    /// A server is killed for what is known to be able to take over, and for nothing else.
    #[test]
    fn what_may_lead_anywhere_is_not_guessed() {
        for words in [
            // Not the main process itself, or not for long.
            "/bin/sh -c L M",
            "/bin/sh -c exec L M | logger",
            "/bin/sh -c exec L M & wait",
            "/bin/sh -c exec L M || exec L M",
            "/bin/sh -c if true; then exec L M; fi",
            "/usr/bin/setsid L M",
            "/usr/bin/time L M",
            // Another environment.
            "/usr/bin/env -i L M",
            "/usr/bin/env -u LISTEN_FDS L M",
            "/usr/bin/env - L M",
            "/usr/bin/env LISTEN_PID=1 L M",
            "/bin/sh -c unset LISTEN_FDS; exec L M",
            "/bin/sh -c export LISTEN_PID=1; exec L M",
            // Something else than to mount the same in the foreground.
            "L --root /r mount v /mnt",
            "L --root /r ls --foreground v mount",
            "L --root /r mount --foreground w /mnt",
            "L --root /other mount --foreground v /mnt",
            "L mount --foreground v /mnt",
            "L mount --foreground -o root=/other $OPTIONS v /mnt",
            // Looks at what nobody serves.
            "/bin/sh -c mkdir -p /mnt && exec L M",
            // Some other program, now or later.
            "/bin/sh -c mount --bind /a /b; exec L M",
            "/bin/sh -c exec $LARDER M",
            "/bin/sh -c exec ./larder M",
            "/bin/sh -c exec larder M",
            "/bin/sh -c PATH=/opt/old exec larder M",
            "/bin/sh -c exec /opt/old/run v; exec L M",
            "/bin/sh -c . /etc/run; exec L M",
            "/bin/sh -c cat <<E\nexec L M\nE",
            "/bin/sh -c echo \"\nexec L M\n\"",
            "/bin/sh -c exec chroot /old L M",
            "/usr/bin/nice chroot /old L M",
            "/usr/sbin/chroot /old L M",
            "/usr/bin/flock /lock L M",
            "/bin/sh -c sleep 600",
            "/no/such/file M",
            "/dev/null M",
            "larder M",
        ] {
            assert_eq!(leads_to(words, ""), None, "{words}");
        }
        for text in [
            "#!/bin/sh\nL --root /r mount --foreground v /mnt\n",
            "#!/bin/sh\n# note \\\nexec /opt/old/run v\nexec L M\n",
            "#!/bin/sh\nexec L M \\",
            "#!/usr/bin/python3\nexec L M\n",
            "#!/bin/sh -n\nexec L M\n",
            &format!("#!/bin/sh\nexec L M\n{}", "#".repeat(MAX_SCRIPT as usize)),
        ] {
            assert_eq!(leads_to("S v /mnt", text), None, "{text:.80}");
        }
    }

    /// Whoever can change it could have it run as root.
    #[test]
    fn what_others_than_root_can_change_is_not_read() {
        let tmp = tempfile::tempdir().unwrap();
        let script = file(tmp.path(), "run", "#!/bin/sh\nexec /usr/bin/larder mount --foreground v /mnt\n");
        assert!(super::script(&script).unwrap().is_some());
        fs::set_permissions(&script, fs::Permissions::from_mode(0o757)).unwrap();
        assert!(super::script(&script).is_err());
    }
}
