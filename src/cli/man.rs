//! The manual: a page for each command, made of what its arguments say of themselves and of what is the same for all, and the page of the
//! helpers of mount(8).

mod descriptions;
mod examples;

use super::args::Args;
use crate::volume::VolumeError;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use descriptions::DESCRIPTIONS;
use examples::EXAMPLES;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The commands whose pages are in section 8, for they are daemons.
const DAEMONS: [&str; 1] = ["larder-plugin"];
const HELPER: &str = include_str!("man/mount.larder.8");
/// When the pages were last changed in substance.
const DATE: &str = "2026-11-27";

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Where to write them
    dir: PathBuf,
}

/// What may be said to whoever mounts.
const MOUNT_OPTIONS: &[(&str, &str)] = &[
    ("ro, rw", "Refuse changes, or not. A snapshot is always mounted with ro."),
    ("nosuid, nodev, noexec, nosymfollow, sync, dirsync, lazytime, silent", "As mount(8) says."),
    (
        "relatime, noatime, strictatime, nodiratime",
        "When reading changes the time of access. The default is relatime.",
    ),
    (
        "allow_other",
        "Let other users in, where an ordinary user mounts, and /etc/fuse.conf says user_allow_other. Mounts of root let them in anyway, as far as permissions do.",
    ),
    (
        "commit=SECONDS",
        "How long a change may stay uncommitted, from 1 to 3600 seconds; the default is 5. What fsync(2) covers is on disk at once.",
    ),
    (
        "durability=local|remote",
        "What fsync(2) waits for: the disk of this host (local), or until the remote of the volume has it, too (remote). For volumes with a remote.",
    ),
    (
        "ship=SECONDS, max-lag=SIZE, history=TIME, local-size=SIZE, lease=none|strict, heartbeat=SECONDS",
        "How the family of a volume with a remote is shipped from then on, as larder-set(1) says it.",
    ),
    (
        "cache-size=SIZE",
        "The limit of the cache of blocks, in bytes or as 512M (a power of 1024) or 512MB (of 1000); the default is 256M. All mounts of a store share the first one's.",
    ),
    ("writeback=on|off", "Whether the kernel gathers writes (on)."),
    (
        "snapshots=on|off",
        "Whether .snapshots/NAME at the root of the mount shows the snapshots of the volume (on). It is not listed.",
    ),
    ("idmap=on|off", "Whether id-mapped mounts of it can be made (off); Linux 6.12 or later."),
    ("compat32=on|off", "Whether inode numbers and directory positions fit 32-bit programs (off)."),
    (
        "awake=on|off",
        "Whether idle CPUs of a virtual machine are kept from halting while requests follow one another (on).",
    ),
    (
        "sched=auto|normal|fifo",
        "How the threads are scheduled that carry out small requests and syncs (auto): ahead of programs that only compute (auto), like any other program (normal), or ahead of all that is not real-time (fifo), which needs CAP_SYS_NICE or an RLIMIT_RTPRIO.",
    ),
    (
        "transport=auto|dev|uring|fuser",
        "How requests of the kernel are read: by Larder itself (auto, dev), through io_uring (uring), or by the library fuser. Only a mount of the first kind can be taken over by another server.",
    ),
    ("root=DIR", "The directory that holds everything, for fstab(5)."),
    ("context=LABEL", "The SELinux label of all files; ignored where there is no SELinux."),
    ("key-file=FILE, passphrase-file=FILE", "The secret of an encrypted volume."),
    ("remount", "Change the options of an existing mount."),
];

const EXITS: &[(u8, &str)] = &[
    (0, "Done."),
    (1, "Any failure without a code of its own."),
    (2, "The command line is wrong: an unknown option, a bad name or size."),
    (3, "There is no such volume, snapshot, hold or root."),
    (4, "A volume, snapshot or hold of that name exists."),
    (5, "The volume is mounted, or in use by another process."),
    (6, "The mountpoint cannot be used."),
    (7, "Permission was denied."),
    (8, "The kernel offers no FUSE."),
    (9, "The store is damaged or missing, or check or scrub found faults."),
    (10, "The store was written by a newer version."),
    (11, "The host's file system is full."),
    (12, "The host's file system failed, or is read-only."),
    (13, "The secret of an encrypted volume is wrong, or there is none."),
    (14, "A volume is not healthy (only larder status says so)."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "LARDER_ROOT",
        "The directory that holds everything, unless --root says otherwise. Without either: root of larder.toml, or /var/lib/larder; of an ordinary user, larder in $XDG_DATA_HOME.",
    ),
    ("LARDER_CONFIG", "The configuration, instead of /etc/larder/larder.toml."),
    (
        "LARDER_LOG",
        "Which messages are logged, as a level (error, warn, info, debug, trace) or as MODULE=LEVEL, separated by commas; info unless it says otherwise. A server logs what the environment of the command that started it says.",
    ),
    (
        "LARDER_LOG_TO",
        "With the value file, servers write to the log of their store even where there is a journal.",
    ),
    (
        "LARDER_WATCHDOG",
        "With the value off, a server that hangs is left alone, for a debugger, and not replaced.",
    ),
    (
        "DOCKER_HOST",
        "Where Docker Engine is asked for the names of containers, as unix://PATH; unix:///run/docker.sock without it. larder-prune(1) and larder ls --filter dangling=true ask that of this host, too.",
    ),
    ("CONTAINERS_STORAGE_CONF", "The storage.conf that says where Podman has its containers."),
    (
        "XDG_DATA_HOME, XDG_RUNTIME_DIR",
        "Where the root of an ordinary user is (~/.local/share without the first), and the socket of the user's volume driver.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "Where systemd leaves secrets: larder.NAME.key or larder.NAME.passphrase for volume NAME.",
    ),
];

const FILES: &[(&str, &str)] = &[
    ("/var/lib/larder", "The root: volumes, their stores, the trash, what is noted of their health."),
    ("~/.local/share/larder", "The root of an ordinary user."),
    (
        "/etc/larder/larder.toml",
        "The configuration of the host: where the root is, what is usual of new volumes and of mounts, how long removed volumes are kept, which volumes must be encrypted.",
    ),
    (
        "/var/lib/larder/log/ID.log",
        "The log of the servers of store ID, on hosts without a journal: up to three files of 1 MiB, of which the oldest is overwritten.",
    ),
    ("/var/lib/larder/mnt/NAME", "Where the volume driver mounts volume NAME while containers use it."),
    ("/etc/larder/NAME.env", "For larder@NAME.service: OPTIONS=\"-o noatime,...\"."),
    (
        "/etc/credstore/larder.NAME.key",
        "For larder@NAME.service: a key file; larder.NAME.passphrase is the other kind of secret.",
    ),
    (
        "/run/docker/plugins/larder.sock",
        "Where container engines find the volume driver; that of an ordinary user is in $XDG_RUNTIME_DIR/larder/larder.sock.",
    ),
];

/// Writes all pages into a directory.
///
/// # Errors
/// The host's.
pub(super) fn run(args: &ManArgs) -> super::CommandResult {
    write(&args.dir).map_err(|e| VolumeError::io(&args.dir, &e))?;
    Ok(crate::exit_code::Exit::Ok)
}

fn write(dir: &Path) -> io::Result<()> {
    for (name, page) in pages()? {
        fs::write(dir.join(name), page)?;
    }
    Ok(())
}

/// The files of the manual, by their names.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    let mut pending = vec![(program, None)];
    while let Some((command, parent)) = pending.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let of_it = command.get_subcommands().filter(|of_it| !of_it.is_hide_set());
        pending.extend(of_it.map(|of_it| (of_it.clone(), Some(name.clone()))));
        let section = if DAEMONS.contains(&name.as_str()) { "8" } else { "1" };
        pages.push((format!("{name}.{section}"), page(command, &name, section, parent.as_deref())?));
    }
    let helper = HELPER
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@DATE@", DATE)
        .replace("@MOUNT_OPTIONS@\n", &section_of("MOUNT OPTIONS", MOUNT_OPTIONS))
        .replace(
            "@ENVIRONMENT@\n",
            &list_of(
                ENVIRONMENT,
                &["LARDER_ROOT", "LARDER_CONFIG", "LARDER_LOG", "LARDER_LOG_TO", "CREDENTIALS_DIRECTORY"],
            ),
        )
        .replace(
            "@FILES@\n",
            &list_of(FILES, &["/var/lib/larder", "/etc/larder/larder.toml", "/var/lib/larder/log/ID.log"]),
        );
    pages.push(("mount.larder.8".into(), helper.into_bytes()));
    Ok(pages)
}

fn page(command: Command, name: &str, section: &str, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let of_it = command.get_subcommands().filter(|of_it| !of_it.is_hide_set());
    let siblings: Vec<String> =
        of_it.map(|of_it| reference(&format!("{name}-{}", of_it.get_name()))).collect();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim().to_owned();
    let arguments = arguments(&command);
    // They come first, in a section of their own.
    let command = command.mut_args(|arg| if arg.is_positional() { arg.hide(true) } else { arg });
    let has_args = command.get_arguments().any(|arg| !arg.is_hide_set());
    let has_commands = command.get_subcommands().any(|of_it| !of_it.is_hide_set());
    let takes_options = matches!(name, "larder-mount" | "larder-set");
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section(section)
        .date(DATE)
        .source(concat!("larder ", env!("CARGO_PKG_VERSION")))
        .manual(if section == "8" { "System Administration" } else { "Larder" });
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend(format!(".SH SYNOPSIS\n{}\n", escaped(&usage)).into_bytes());
    man.render_description_section(&mut page)?;
    if let Some((_, paragraphs)) = DESCRIPTIONS.iter().find(|(of, _)| *of == name) {
        page.extend(paragraphs.iter().flat_map(|text| format!(".PP\n{}\n", escaped(text)).into_bytes()));
    }
    page.extend(arguments.into_bytes());
    if has_args {
        man.render_options_section(&mut page)?;
    }
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = String::new();
    if takes_options {
        rest.push_str(&section_of("MOUNT OPTIONS", MOUNT_OPTIONS));
    }
    let exits: Vec<(String, &str)> = EXITS.iter().map(|(code, what)| (code.to_string(), *what)).collect();
    let exits: Vec<(&str, &str)> = exits.iter().map(|(code, what)| (code.as_str(), *what)).collect();
    rest.push_str(&section_of("EXIT STATUS", &exits));
    rest.push_str(&section_of("ENVIRONMENT", ENVIRONMENT));
    rest.push_str(&section_of("FILES", FILES));
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == name) {
        rest.push_str(".SH EXAMPLES\n");
        for (what, lines) in *examples {
            let _ =
                write!(rest, "{}:\n.PP\n.in +4n\n.EX\n{}\n.EE\n.in\n.PP\n", escaped(what), escaped(lines));
        }
        let end = rest.len() - ".PP\n".len();
        rest.truncate(end);
    }
    rest.push_str(".SH SEE ALSO\n");
    let mut also: Vec<String> = parent.map(reference).into_iter().chain(siblings).collect();
    also.extend(match name {
        "larder" | "larder-mount" | "larder-umount" => {
            vec![".BR mount.larder (8)".into(), ".BR fstab (5)".into(), ".BR mount (8)".into()]
        }
        "larder-logs" => vec![".BR journalctl (1)".into()],
        "larder-plugin" => {
            vec![".BR docker\\-volume\\-create (1)".into(), ".BR podman\\-volume\\-create (1)".into()]
        }
        _ => Vec::new(),
    });
    rest.push_str(&also.join(",\n"));
    rest.push('\n');
    page.extend(rest.into_bytes());
    // What is generated takes all pages to be in the section of this one.
    let mut text = String::from_utf8_lossy(&page).replace(".br\n\n.br\n", ".sp\n");
    for daemon in DAEMONS {
        let daemon = escaped(daemon);
        text = text.replace(&format!("{daemon}(1)"), &format!("{daemon}(8)"));
    }
    Ok(text.into_bytes())
}

/// What a command is given without an option.
fn arguments(command: &Command) -> String {
    let mut rows = String::new();
    for arg in command.get_positionals().filter(|arg| !arg.is_hide_set()) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let choice = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
        let _ = write!(
            rows,
            ".TP\n\\fI{}\\fR\n{}{}\n",
            escaped(&arg.to_string()),
            escaped(&help),
            escaped(&choice)
        );
    }
    if rows.is_empty() { rows } else { format!(".SH ARGUMENTS\n{rows}") }
}

/// A page, as other pages name it.
fn reference(name: &str) -> String {
    let section = if DAEMONS.contains(&name) { 8 } else { 1 };
    format!(".BR {} ({section})", escaped(name))
}

fn section_of(title: &str, rows: &[(&str, &str)]) -> String {
    format!(
        ".SH {}\n{}",
        if title.contains(' ') { format!("\"{title}\"") } else { title.to_owned() },
        list(rows)
    )
}

fn list(rows: &[(&str, &str)]) -> String {
    rows.iter().map(|(what, text)| format!(".TP\n.B {}\n{}\n", escaped(what), escaped(text))).collect()
}

/// Of a list, what has these names.
fn list_of(rows: &[(&str, &str)], names: &[&str]) -> String {
    let rows: Vec<_> = rows.iter().filter(|(name, _)| names.contains(name)).copied().collect();
    debug_assert_eq!(rows.len(), names.len());
    list(&rows)
}

/// Text as roff takes it: nothing in it is a command.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let line = |line: &str| match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::MountOptions;
    use clap::Parser;

    #[test]
    fn every_example_is_a_command_line_and_every_page_of_one_is_there() {
        let pages = pages().unwrap();
        for (name, examples) in EXAMPLES {
            assert!(
                pages
                    .iter()
                    .any(|(page, _)| page.strip_suffix(".1").or(page.strip_suffix(".8")) == Some(name)),
                "{name}"
            );
            for (_, lines) in *examples {
                for line in lines.lines().filter(|line| line.starts_with("larder ")) {
                    let line = line.split(" > ").next().unwrap();
                    Args::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
                }
            }
        }
    }

    #[test]
    fn every_mount_option_is_described() {
        let described: Vec<&str> = MOUNT_OPTIONS
            .iter()
            .flat_map(|(names, _)| names.split(", "))
            .map(|name| name.split('=').next().unwrap())
            .collect();
        let known = MountOptions::parse(&["nonsense".to_owned()], false).unwrap_err().0;
        let (_, known) = known.split_once("the options are ").unwrap();
        for option in known.split(", ").map(|option| option.split(['=', ' ']).next().unwrap()) {
            let is_option = option.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit());
            assert!(!is_option || option.is_empty() || described.contains(&option), "{option:?} of {known}");
        }
        assert!(known.contains("commit") && described.len() >= 25);
    }

    #[test]
    fn every_description_has_its_page_and_no_page_names_one_that_is_not_there() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(page, _)| page.rsplit_once('.').unwrap().0).collect();
        for (name, _) in DESCRIPTIONS {
            assert!(names.contains(name), "{name}");
        }
        for (page, text) in &pages {
            let text = String::from_utf8_lossy(text).replace("\\-", "-");
            for (at, _) in text.match_indices("larder-") {
                let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap();
                let (name, rest) = text[at..].split_at(end);
                let section = rest.trim_start().strip_prefix('(').and_then(|rest| rest.split_once(')'));
                if let Some((section @ ("1" | "8"), _)) = section {
                    let named = format!("{name}.{section}");
                    assert!(pages.iter().any(|(page, _)| *page == named), "{page}: {named}");
                }
            }
        }
    }

    #[test]
    fn every_command_has_an_example() {
        for (page, text) in pages().unwrap() {
            let text = String::from_utf8(text).unwrap();
            // What has commands of its own has their examples.
            let is_group = text.contains(".SH SUBCOMMANDS");
            assert!(is_group || text.contains(".SH EXAMPLES\n"), "{page}");
        }
    }

    #[test]
    fn every_variable_of_the_environment_is_in_the_documents_too() {
        let documents = include_str!("../../docs/commands.md");
        for (names, _) in ENVIRONMENT {
            for name in names.split(", ") {
                assert!(documents.contains(&format!("`{name}`")), "{name}");
            }
        }
    }

    #[test]
    fn every_exit_code_is_described() {
        for (code, _) in EXITS {
            assert_eq!(crate::exit_code::Exit::of_number(*code) as u8, *code);
        }
        assert_eq!(EXITS.len(), 15);
        assert_eq!(crate::exit_code::Exit::of_number(15) as u8, 1, "there is none more");
    }

    #[test]
    fn no_text_is_a_command_to_roff() {
        assert_eq!(escaped(".so /etc/passwd\na\\b -x 'y'"), "\\&.so /etc/passwd\na\\eb \\-x \\(aqy\\(aq");
    }
}
