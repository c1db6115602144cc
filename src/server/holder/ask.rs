//! Other programs that are asked something, and not waited for for ever: nobody watches the server meanwhile.

use super::children::Child;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// More than this is not read.
const MAX_BYTES: u64 = 1 << 20;

/// What a command writes to its output until it closes that, when it is killed, and the number of its process; `None` if that takes longer than `longest`.
///
/// # Errors
/// As execve(2) and read(2).
pub(super) fn said_by(command: &mut Command, longest: Duration) -> io::Result<Option<(Vec<u8>, u32)>> {
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = process.stdout.take();
    let mut child = Child::from(process);
    let (send, receive) = mpsc::channel();
    // One that is not waited for any more ends with the last process that has the other end.
    let reading = std::thread::Builder::new().name("larder-offer".into()).spawn(move || {
        let mut said = Vec::new();
        let read = output.map_or(Ok(0), |output| output.take(MAX_BYTES).read_to_end(&mut said));
        let _ = send.send(read.map(|_| said));
    });
    let said = reading.map(|_| receive.recv_timeout(longest).ok());
    child.kill();
    let _ = child.reap();
    Ok(said?.transpose()?.map(|said| (said, child.id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_nothing_is_not_waited_for() {
        let shell = |script: &str, longest| {
            let said = said_by(Command::new("sh").args(["-c", script]), longest).unwrap();
            said.map(|(said, _)| said)
        };
        let short = Duration::from_millis(50);
        assert_eq!(shell("exec sleep 600", short), None);
        // Nor is what it has started, nor all that it would say.
        assert_eq!(shell("sleep 0.3 & exec sleep 600", short), None);
        let long = Duration::from_secs(60);
        assert_eq!(shell("exec yes", long).map(|said| said.len() as u64), Some(MAX_BYTES));
        assert_eq!(shell("cat; echo '{}'; exec sleep 600 >&-", long).as_deref(), Some(&b"{}\n"[..]));
    }
}
