//! What systemd says of the unit that this process is the main one of.

use super::ask::said_by;
use super::next::Command;
use super::{MARGIN, wait_longer};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

/// How long systemd may take to say what it does.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// For so long it is asked again what an order to end is for, which is taken for one to stop then.
const LONGEST_DOUBT: Duration = Duration::from_secs(90);

/// What systemd ends the main process of a unit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Order {
    /// The unit ends.
    Stop,
    /// It is started again at once. A server that `stays` is left alone when the main process ends.
    Restart { stays: bool },
}

/// An order to end, as long as it is not known what it is for.
#[derive(Debug, Default)]
pub(in crate::server) struct Doubt {
    since: Option<Instant>,
}

impl Doubt {
    /// Whether it is not known what an order is for.
    pub(super) fn is_there(&self) -> bool {
        self.since.is_some()
    }

    /// What the order is for that `came` just now, or is in doubt since earlier; `None`: there is none, or it is to be asked again.
    pub(in crate::server) fn settle(
        &mut self,
        came: bool,
        now: Instant,
        ask: impl FnOnce() -> Option<Order>,
    ) -> Option<Order> {
        if came {
            self.since.get_or_insert(now);
        }
        let since = self.since?;
        let order = ask().or_else(|| (now.duration_since(since) >= LONGEST_DOUBT).then_some(Order::Stop));
        match order {
            Some(_) => self.since = None,
            None => wait_longer(2 * LONGEST_ANSWER + MARGIN),
        }
        order
    }
}

/// The unit of systemd that this process is the main one of.
fn own_unit() -> Option<String> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut names = groups.lines().filter_map(|line| line.rsplit('/').next());
    names.find(|name| name.ends_with(".service")).map(str::to_owned)
}

/// Whether the systemd that is to be told something over this socket is a user's own, and not that of the host.
fn is_of_user(socket: &OsStr) -> bool {
    let socket = Path::new(socket);
    socket.ends_with("systemd/notify") && socket != Path::new("/run/systemd/notify")
}

/// What systemctl(1) says; nothing, if it does not.
fn systemctl(args: &[&str]) -> Vec<u8> {
    let of_user = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| is_of_user(&socket));
    let args: Vec<String> =
        of_user.then_some("--user").iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let shown = args.join(" ");
    let said = super::program::in_time(move || {
        said_by(process::Command::new("systemctl").args(args), LONGEST_ANSWER)
    });
    match said {
        Some(Ok(Some((said, _)))) => return said,
        Some(Err(e)) => log::warn!("systemctl {shown}: {e}"),
        Some(Ok(None)) | None => log::warn!("systemctl {shown}: it does not answer"),
    }
    Vec::new()
}

/// What systemd ends this process for; `None` if it does not say.
pub(in crate::server) fn order() -> Option<Order> {
    let Some(unit) = own_unit() else { return Some(Order::Stop) };
    // With its legend, so that there is an answer also when there is no job.
    if !is_restart(&systemctl(&["list-jobs", "--plain", &unit]))? {
        return Some(Order::Stop);
    }
    match systemctl(&["show", "--property=KillMode", "--value", &unit]).trim_ascii() {
        b"" => None,
        mode => Some(Order::Restart { stays: matches!(mode, b"process" | b"none") }),
    }
}

/// Whether one of these jobs starts a unit again.
fn is_restart(jobs: &[u8]) -> Option<bool> {
    let jobs = String::from_utf8_lossy(jobs);
    let is_restart = jobs.lines().any(|job| job.split_whitespace().nth(2) == Some("restart"));
    (!jobs.trim().is_empty()).then_some(is_restart)
}

/// The command that systemd starts as the next main process, if it says, and starts it where this process is, with its rights.
pub(super) fn next_command() -> Option<Command> {
    let unit = own_unit()?;
    let asked = "--property=RootDirectory,RootImage,User,DynamicUser,MainPID";
    if !is_unconfined(&systemctl(&["show", asked, &unit])) {
        return None;
    }
    command_in(&systemctl(&["show", "--property=ExecStart", "--value", &unit]))
}

/// Whether these properties, each `NAME=VALUE`, say that a unit's programs are run as root, in the tree of files of the host.
fn is_unconfined(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    let is_usual = |line: &str| match line.split_once('=') {
        Some(("User", value)) => ["", "root", "0"].contains(&value),
        Some(("RootDirectory", value)) => ["", "/"].contains(&value),
        Some(("RootImage", value)) => value.is_empty(),
        Some(("DynamicUser", value)) => value == "no",
        _ => true,
    };
    // It says something of each unit.
    said.lines().any(|line| line.starts_with("MainPID=")) && said.lines().all(is_usual)
}

/// What systemd says of a command: `{ path=/usr/bin/larder ; argv[]=/usr/bin/larder mount ... ; ignore_errors=no ; ...`.
fn command_in(said: &[u8]) -> Option<Command> {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|bytes| bytes == what);
    let (path_end, words_end) = (b" ; argv[]=", b" ; ignore_errors=");
    let text = said.trim_ascii().strip_prefix(b"{ path=")?;
    let (path, words) = text.split_at(find(text, path_end)?);
    let words = &words[path_end.len()..];
    let words = &words[..find(words, words_end)?];
    Some(Command {
        program: PathBuf::from(OsStr::from_bytes(path)),
        words: String::from_utf8_lossy(words).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_systemd_is_asked_of_a_users_unit() {
        assert!(is_of_user(OsStr::new("/run/user/1000/systemd/notify")));
        for socket in ["/run/systemd/notify", "@/org/freedesktop/systemd1/notify", ""] {
            assert!(!is_of_user(OsStr::new(socket)), "{socket}");
        }
    }

    #[test]
    fn the_next_program_is_what_systemd_says() {
        let command =
            |program: &str, words: &str| Some(Command { program: program.into(), words: words.into() });
        let said = b"{ path=/opt/my larder ; argv[]=/opt/my larder mount --foreground v /mnt ; ignore_errors=no ; pid=7 }\n";
        assert_eq!(command_in(said), command("/opt/my larder", "/opt/my larder mount --foreground v /mnt"));
        let said =
            b"{ path=/bin/sh ; argv[]=/bin/sh -c sleep 1 ; exec larder mount ; ignore_errors=no ; pid=7 }\n";
        assert_eq!(command_in(said), command("/bin/sh", "/bin/sh -c sleep 1 ; exec larder mount"));
        assert_eq!((command_in(b""), command_in(b"\n")), (None, None));
    }

    #[test]
    fn what_is_started_as_somebody_else_or_elsewhere_is_not_taken_for_the_same() {
        let usual = "User=\nDynamicUser=no\nRootDirectory=\nRootImage=\nMainPID=7\n";
        assert!(is_unconfined(usual.as_bytes()));
        for (what, instead) in [
            ("User=", "User=larder"),
            ("RootDirectory=", "RootDirectory=/old"),
            ("RootImage=", "RootImage=/old.raw"),
            ("DynamicUser=no", "DynamicUser=yes"),
        ] {
            assert!(!is_unconfined(usual.replace(&format!("{what}\n"), &format!("{instead}\n")).as_bytes()));
        }
        assert!(!is_unconfined(b""), "it says nothing");
    }

    /// It would be ended although it was to be left alone.
    #[test]
    fn an_order_is_not_taken_for_one_to_stop_as_long_as_systemd_may_still_say_what_it_is_for() {
        assert_eq!(is_restart(b""), None);
        assert_eq!(is_restart(b"No jobs running.\n"), Some(false));
        let jobs =
            b"JOB UNIT             TYPE    STATE\n913 larder@v.service restart running\n\n1 jobs listed.\n";
        assert_eq!(is_restart(jobs), Some(true));
        let jobs = b"JOB UNIT             TYPE STATE\n913 larder@v.service stop running\n\n1 jobs listed.\n";
        assert_eq!(is_restart(jobs), Some(false));

        let (mut doubt, begin) = (Doubt::default(), Instant::now());
        let mut at = |came, time, answer| doubt.settle(came, begin + time, || answer);
        let restart = Some(Order::Restart { stays: true });
        assert_eq!(at(false, Duration::ZERO, restart), None, "nothing was ordered");
        assert_eq!(at(true, Duration::ZERO, None), None);
        assert_eq!(at(false, LONGEST_DOUBT / 2, None), None);
        assert_eq!(at(false, LONGEST_DOUBT / 2, restart), restart);
        assert_eq!(at(false, LONGEST_DOUBT, restart), None, "it is settled");
        assert_eq!(at(true, LONGEST_DOUBT, None), None);
        assert_eq!(at(false, 2 * LONGEST_DOUBT, None), Some(Order::Stop), "and not for ever");
    }
}
