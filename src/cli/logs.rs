//! `larder logs`: what the servers of a volume have said, from the journal and from the log of its store.

use super::{CommandResult, Context, output};
use crate::backing::{OpenMode, open_file};
use crate::exit_code::Exit;
use crate::host::{Place, place, trash};
use crate::printable::printable;
use crate::root::{Root, maps_users};
use crate::store::StoreId;
use crate::volume::{Result, VolumeError};
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// So many lines are shown before what follows, as tail(1) and journalctl(1) have it.
const LINES_BEFORE: usize = 10;
/// The year 10000, which RFC 3339 has no way to write.
const LAST_MICROS: u64 = 253_402_300_800_000_000;
/// So much of what journalctl(1) says is wrong is read.
const SAID_MAX: u64 = 4096;
const WHO_MAY_READ: &str = "users of the group systemd-journal can, and root";
/// How often a file is looked at that is followed.
const INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Name of the volume
    name: String,
    /// Go on with what is said from now on, until it is interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last messages [default: all, or 10 with --follow]
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_count)]
    lines: Option<usize>,
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number of messages; write it like 10"))
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Message {
    /// RFC 3339, with milliseconds.
    time: String,
    level: String,
    target: String,
    message: String,
}

impl Message {
    /// From the first line that it has in a file; `None` for one that goes on with the message before.
    fn begun_by(line: &str) -> Option<Self> {
        let (head, message) = line.strip_prefix('[')?.split_once("] ")?;
        let mut words = head.split_ascii_whitespace();
        let (time, level, target) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        // What is no time is no message, whatever it looks like.
        humantime::parse_rfc3339(time).ok()?;
        let of = str::to_owned;
        Some(Self { time: of(time), level: of(level), target: of(target), message: of(message) })
    }

    /// From an entry of the journal, and where that is.
    fn of_entry(json: &str) -> Option<(Self, String)> {
        let entry: Value = serde_json::from_str(json).ok()?;
        let text = |name: &str| match &entry[name] {
            Value::String(text) => text.clone(),
            // As journalctl writes what is no plain text.
            Value::Array(bytes) => {
                let bytes: Vec<u8> = bytes.iter().filter_map(|byte| byte.as_u64()?.try_into().ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => String::new(),
        };
        let micros = text("__REALTIME_TIMESTAMP").parse().ok().filter(|micros| *micros < LAST_MICROS)?;
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))?;
        let level = match text("PRIORITY").as_str() {
            "0" | "1" | "2" | "3" => "ERROR",
            "4" => "WARN",
            "7" => "DEBUG",
            _ => "INFO",
        };
        let message = Self {
            time: humantime::format_rfc3339_millis(time).to_string(),
            level: level.to_owned(),
            target: text("LARDER_TARGET"),
            message: text("MESSAGE"),
        };
        Some((message, text("__CURSOR")))
    }

    /// As people read it.
    fn shown(&self) -> String {
        let lines: Vec<_> = self.message.lines().map(printable).collect();
        let (time, level, target) = (&self.time, &self.level, &self.target);
        format!(
            "[{} {:<5} {}] {}",
            printable(time),
            printable(level),
            printable(target),
            lines.join("\n    ")
        )
    }
}

/// Puts lines of a file together to messages. Those before the first one that is whole are left out.
#[derive(Debug, Default)]
struct Lines {
    current: Option<Message>,
}

impl Lines {
    /// Takes a line; the message before it, if that has come to its end.
    fn take(&mut self, line: &str) -> Option<Message> {
        if let Some(message) = Message::begun_by(line) {
            return self.current.replace(message);
        }
        if let Some(current) = &mut self.current {
            current.message.push('\n');
            current.message.push_str(line.strip_prefix("    ").unwrap_or(line));
        }
        None
    }

    fn end(&mut self) -> Option<Message> {
        self.current.take()
    }
}

/// A log that is read while it is written, and put aside when it is long.
struct FollowedFile {
    path: PathBuf,
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
    lines: Lines,
}

impl FollowedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new(), lines: Lines::default() }
    }

    /// What has been written since it was read, to `each`.
    fn read(&mut self, each: &mut dyn FnMut(Message)) -> io::Result<()> {
        loop {
            if self.file.is_none() {
                match open_file(&self.path, OpenMode::Read) {
                    Ok(file) => self.file = Some(BufReader::new(file)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
            // Before it is read to its end: what is written to it after that is found the next time.
            let is_current = self.is_current();
            while let Some(line) = self.line()? {
                self.lines.take(&line).into_iter().for_each(&mut *each);
            }
            self.lines.end().into_iter().for_each(&mut *each);
            if is_current {
                return Ok(());
            }
            (self.file, self.partial) = (None, Vec::new());
        }
    }

    /// The next line that is there as a whole.
    fn line(&mut self) -> io::Result<Option<String>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        // Cut short rather than put aside.
        let end = file.get_ref().metadata()?.len();
        if file.stream_position()? > end {
            file.seek(SeekFrom::Start(0))?;
            self.partial.clear();
        }
        file.read_until(b'\n', &mut self.partial)?;
        if self.partial.pop_if(|last| *last == b'\n').is_none() {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned()))
    }

    /// Whether the file that has the name is the one that is read.
    fn is_current(&self) -> bool {
        let of_name = self.path.metadata();
        let own = self.file.as_ref().map(|file| file.get_ref().metadata());
        match (of_name, own) {
            (Ok(one), Some(Ok(other))) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            // Until there is another one.
            (Err(_), _) => true,
            _ => false,
        }
    }
}

/// journalctl(1) for the messages of a store; ends with this.
struct Journal {
    program: Child,
    lines: Receiver<String>,
    /// What it has said was wrong, when it has ended.
    wrong: Option<JoinHandle<String>>,
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Journal {
    /// `None` where there is no journal.
    fn read(root: &Root, store: StoreId, args: &[String]) -> Option<Self> {
        // Whatever is too long or no text as well.
        let mut command = Command::new("journalctl");
        command.args(["--output=json", "--all", "--quiet", "--no-pager"]).args(args);
        command.arg(format!("LARDER_STORE={store}"));
        // Whoever sends a message says what fields it has, but not whose process it is from.
        command.args(user_of(root, store).map(|user| format!("_UID={user}")));
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = command.spawn().ok()?;
        let out = BufReader::new(program.stdout.take()?);
        let mut said = program.stderr.take()?.take(SAID_MAX);
        let wrong = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = said.read_to_end(&mut bytes);
            // It is to end, whatever more it has to say.
            let _ = io::copy(&mut said.into_inner(), &mut io::sink());
            String::from_utf8_lossy(&bytes).into_owned()
        });
        // A few at a time: it is read as fast as it is printed.
        let (send, lines) = sync_channel(64);
        std::thread::spawn(move || {
            out.lines().map_while(io::Result::ok).try_for_each(|line| send.send(line))
        });
        Some(Self { program, lines, wrong: Some(wrong) })
    }

    /// Why it has not shown all there is, if it has failed; to be asked when there are no more lines.
    fn failure(&mut self) -> Option<String> {
        let said = self.wrong.take()?.join().unwrap_or_default();
        if self.program.wait().is_ok_and(|status| status.success()) {
            return None;
        }
        let why = said
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or("it does not say why")
            .trim_end_matches('.');
        Some(format!("journalctl cannot read the journal: {}; {WHO_MAY_READ}", printable(why)))
    }
}

/// The user whose servers serve a store, as the host knows it; `None` where that cannot be told, in a namespace of users.
fn user_of(root: &Root, store: StoreId) -> Option<u32> {
    let owner = root.store(store).metadata().ok()?.uid();
    (!maps_users()).then_some(owner)
}

/// What is printed, and how.
struct Output {
    json: bool,
    /// Nobody reads any more.
    closed: bool,
}

impl Output {
    fn print(&mut self, message: &Message) -> Result<()> {
        let line = match self.json {
            true => output::json_line(message)?,
            false => message.shown(),
        };
        match writeln!(io::stdout(), "{line}") {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            other => other.map_err(|e| VolumeError::new(Exit::HostIo, format!("standard output: {e}")))?,
        }
        Ok(())
    }
}

impl Output {
    /// Prints a message, or keeps it if only the last ones are to be printed.
    fn add(&mut self, message: Message, last: &mut Last) -> Result<()> {
        if last.most.is_none() {
            return self.print(&message);
        }
        last.push(message);
        Ok(())
    }
}

/// The last so many of what comes, or all.
struct Last {
    most: Option<usize>,
    messages: VecDeque<Message>,
}

impl Last {
    fn push(&mut self, message: Message) {
        self.messages.push_back(message);
        if self.most.is_some_and(|most| self.messages.len() > most) {
            self.messages.pop_front();
        }
    }
}

pub(super) fn run(context: &Context, args: &LogsArgs) -> CommandResult {
    let name = &args.name;
    let store = match place(&context.root, name)? {
        Some(Place::Store(store)) => store,
        Some(Place::Memory) => {
            let what = format!("volume {name:?} is in memory: the kernel serves it, and there is no log");
            return Err(VolumeError::new(Exit::Failure, what));
        }
        None => {
            let no_volume = trash::no_volume(&context.root, name);
            let hint =
                format!("`journalctl LARDER_VOLUME={name}` may show what was said of one that is gone");
            return Err(VolumeError::new(no_volume.exit, format!("{}; {hint}", no_volume.message)));
        }
    };
    let newest = context.root.log(store);
    let most = args.lines.or(args.follow.then_some(LINES_BEFORE));
    let mut last = Last { most, messages: VecDeque::new() };
    let failed = |path: &Path, e: &io::Error| VolumeError::io(path, e);
    for path in context.root.older_logs(store).into_iter().rev() {
        let mut file = FollowedFile::new(path.clone());
        file.read(&mut |message| last.push(message)).map_err(|e| failed(&path, &e))?;
    }
    let mut file = FollowedFile::new(newest.clone());
    file.read(&mut |message| last.push(message)).map_err(|e| failed(&newest, &e))?;
    // The journal's may be many: they come in between as they are read.
    let mut output = Output { json: context.json, closed: false };
    let mut cursor = None;
    let mut of_files = std::mem::take(&mut last.messages);
    // Of none, the last is read all the same: what comes behind it is new.
    let limit = most.map(|most| format!("--lines={}", most.max(1)));
    if let Some(mut journal) = Journal::read(&context.root, store, limit.as_slice()) {
        for line in &journal.lines {
            let Some((message, at)) = Message::of_entry(&line) else { continue };
            cursor = Some(at);
            while of_files.front().is_some_and(|front| front.time <= message.time) {
                of_files.pop_front().map_or(Ok(()), |front| output.add(front, &mut last))?;
            }
            output.add(message, &mut last)?;
            if output.closed {
                return Ok(Exit::Ok);
            }
        }
        if let Some(why) = journal.failure() {
            output::warning(why);
        }
    }
    for message in of_files {
        last.push(message);
    }
    for message in last.messages {
        output.print(&message)?;
    }
    if args.follow { follow(&context.root, store, file, cursor, &mut output) } else { Ok(Exit::Ok) }
}

/// Prints what is said from now on, until nobody reads it.
fn follow(
    root: &Root,
    store: StoreId,
    mut file: FollowedFile,
    cursor: Option<String>,
    output: &mut Output,
) -> CommandResult {
    let after = cursor.map(|cursor| format!("--after-cursor={cursor}"));
    let args: Vec<String> = ["--follow".into(), "--lines=all".into()].into_iter().chain(after).collect();
    let mut journal = Journal::read(root, store, &args);
    let path = file.path.clone();
    let mut looked = Instant::now();
    while !output.closed {
        let line = match &journal {
            Some(journal) => journal.lines.recv_timeout(INTERVAL),
            None => {
                std::thread::sleep(INTERVAL);
                Err(RecvTimeoutError::Timeout)
            }
        };
        match line {
            Ok(line) => {
                if let Some((message, _)) = Message::of_entry(&line) {
                    output.print(&message)?;
                }
                if looked.elapsed() < INTERVAL {
                    continue;
                }
            }
            // It has ended: there is only the file.
            Err(RecvTimeoutError::Disconnected) => journal = None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        looked = Instant::now();
        let mut new = Vec::new();
        file.read(&mut |message| new.push(message)).map_err(|e| VolumeError::io(&path, &e))?;
        new.iter().try_for_each(|message| output.print(message))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let text = "no message\n[2026-11-27T15:53:08.123Z ERROR larder::fs] one\n    two\n      three\n[2026 x] y\n\
                    [2026-11-27T15:53:09Z INFO  larder] four] five\n";
        let mut lines = Lines::default();
        let mut messages: Vec<Message> = text.lines().filter_map(|line| lines.take(line)).collect();
        messages.extend(lines.end());
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].message, "one\ntwo\n  three\n[2026 x] y");
        assert_eq!(
            messages[0].shown(),
            "[2026-11-27T15:53:08.123Z ERROR larder::fs] one\n    two\n      three\n    [2026 x] y"
        );
        assert_eq!((messages[1].level.as_str(), messages[1].message.as_str()), ("INFO", "four] five"));
    }

    #[test]
    fn an_entry_of_the_journal_is_a_message_whatever_it_is_made_of() {
        let (message, cursor) = Message::of_entry(
            r#"{"__REALTIME_TIMESTAMP":"1700000000123456","PRIORITY":"4","LARDER_TARGET":"larder::x","MESSAGE":[97,10,255,27],"__CURSOR":"c"}"#,
        )
        .unwrap();
        assert_eq!(message.shown(), "[2023-11-14T22:13:20.123Z WARN  larder::x] a\n    \u{fffd}\\u{1b}");
        assert_eq!(cursor, "c");
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"__REALTIME_TIMESTAMP":"x"}"#,
            r#"{"__REALTIME_TIMESTAMP":"99999999999999999999"}"#,
        ] {
            assert_eq!(Message::of_entry(bad), None, "{bad}");
        }
        let late = r#"{"__REALTIME_TIMESTAMP":"18446744073709551615","MESSAGE":null}"#;
        assert_eq!(Message::of_entry(late), None);
    }

    #[test]
    fn a_log_is_followed_into_the_next_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.log");
        let mut file = FollowedFile::new(path.clone());
        let add = |text: &str| {
            let mut file = File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut read = || {
            let mut found = Vec::new();
            file.read(&mut |message| found.push(message.message)).unwrap();
            found
        };
        let head = "[2026-11-27T15:53:08.123Z INFO  larder]";
        assert!(read().is_empty());
        add(&format!("{head} one\n    more\n{head} tw"));
        assert_eq!(read(), ["one\nmore"]);
        add(&format!("o\n{head} three\n"));
        fs::rename(&path, tmp.path().join("a.log.1")).unwrap();
        assert_eq!(read(), ["two", "three"]);
        add(&format!("{head} four\n"));
        assert_eq!(read(), ["four"]);
        // Somebody emptied it.
        fs::write(&path, "").unwrap();
        add(&format!("{head} 5\n"));
        assert_eq!(read(), ["5"]);
    }
}
