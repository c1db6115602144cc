//! One request from its bytes to its answer, on whichever way it came.

use super::adapter::Adapter;
use super::fault;
use super::gate::{Gate, HeldAnswer, KEPT_FOR, Verdict};
use super::ledger::{Seat, Working};
use super::reply::{Answer, Fill, List, Reply, errno, with_buffer};
use super::request::Op;
use super::settling::{Again, Alone, Convicted};
use super::task::{Desk, Task};
use super::uring::Entry;
use super::wire::{self, Decoded, InHeader, Listing, Malformed, Parts, UNIQUE_RESEND, opcode};
use crate::fs::{FsError, MadeFor, Node, Origin};
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Duration;

/// The way that a request came, and its answer goes.
pub(super) enum Way {
    Device,
    Ring(Entry),
}

/// The way back to the caller of one request. What says that it is being worked on goes with it, when the answer is written.
struct TaskReply {
    task: Task,
    way: Way,
    /// What it is about.
    node: Node,
    /// If somebody works on it who is no reader and no worker.
    working: Option<Working>,
    alone: Option<Alone>,
    again: Option<Again>,
    is_answered: bool,
    /// It tells nobody anything.
    is_quiet: bool,
}

/// Whoever asked is not left waiting, whatever became of the thread that had the request, or of the queue that it was in. (Where a mount
/// is gone, nobody hears it. A process that is killed drops nothing: its successor is given the request.)
impl Drop for TaskReply {
    fn drop(&mut self) {
        // (Entries of rings see to it themselves.)
        if !self.is_answered && matches!(self.way, Way::Device) {
            let Task { desk, tag, opcode, .. } = &self.task;
            log::error!(
                "a request of kind {opcode} was dropped, by a panic or with its queue; it is answered EIO"
            );
            desk.device.answer(*tag, -(Errno::EIO as i32), &[]);
        }
    }
}

impl TaskReply {
    /// Of what the kernel only says, it expects no answer.
    fn expects_none(mut self) {
        self.is_answered = true;
    }

    /// For how long the kernel may keep what is answered, if not as long as it likes.
    fn kept_for(&self) -> Option<Duration> {
        self.task.desk.gate.is_some().then_some(KEPT_FOR)
    }

    fn answer(self, error: i32, body: &[u8]) {
        match self.task.desk.gate.clone() {
            None => self.answer_now(error, body),
            Some(gate) => self.answer_by(&gate, error, body),
        }
    }

    /// Answers if that may be done right now; else later, or with an error.
    fn answer_by(self, gate: &Arc<Gate>, error: i32, body: &[u8]) {
        let (pid, opcode, node, is_quiet) = (self.task.pid, self.task.opcode, self.node, self.is_quiet);
        let mut reply = Some(self);
        let mut give = || reply.take().into_iter().for_each(|reply| reply.answer_now(error, body));
        let verdict = gate.answer(&mut give);
        let Some(mut reply) = reply else { return };
        match verdict {
            _ if is_own(pid) => reply.answer_now(error, body),
            Verdict::Never => reply.answer_now(-(Errno::EIO as i32), &[]),
            Verdict::Now | Verdict::Later if is_quiet => reply.answer_now(error, body),
            Verdict::Now | Verdict::Later => {
                (reply.working, reply.alone) = (None, None);
                let (body, bytes) = (body.to_vec(), body.len());
                let give = move |given: Result<(), Errno>| match given {
                    Ok(()) => reply.answer_now(error, &body),
                    Err(e) => reply.answer_now(-(e as i32), &[]),
                };
                gate.hold(HeldAnswer { pid, opcode, node, bytes, give: Box::new(give) });
            }
        }
    }

    fn answer_now(mut self, error: i32, body: &[u8]) {
        self.is_answered = true;
        match &mut self.way {
            // A request that comes again has a bit more in its number here.
            Way::Device => self.task.desk.device.answer(self.task.tag, error, body),
            Way::Ring(entry) => entry.answer(error, body),
        }
    }

    /// Answers with what `fill` puts at the start of a buffer of `size` bytes, but for what it says would wait.
    fn answer_filled(mut self, size: usize, fill: Fill<'_>) -> Option<Self> {
        let filled = match &mut self.way {
            // Where it is to be in the end.
            Way::Ring(entry) => {
                let size = size.min(entry.room());
                fill(&mut entry.payload()[..size])
            }
            Way::Device => {
                return with_buffer(size, |buffer| match fill(buffer) {
                    Err(FsError::WouldWait | FsError::Away) => Some(self),
                    Ok(count) => {
                        self.answer(0, &buffer[..count]);
                        None
                    }
                    Err(e) => {
                        self.send(Err(errno(e)));
                        None
                    }
                });
            }
        };
        match (filled, &mut self.way) {
            (Err(FsError::WouldWait | FsError::Away), _) => return Some(self),
            (Ok(count), Way::Ring(entry)) => entry.answer_in_place(count),
            (Ok(_), Way::Device) => {}
            (Err(e), _) => self.send(Err(errno(e))),
        }
        None
    }
}

impl Reply for TaskReply {
    fn send(self, answer: Result<Answer, Errno>) {
        match (&self.task.desk.gate, &answer) {
            (Some(gate), Ok(Answer::Opened)) => gate.opened().opens(self.node),
            (Some(gate), Ok(Answer::Created { attr })) => gate.opened().opens(attr.ino),
            _ => {}
        }
        match answer {
            Ok(answer) => wire::with_bytes(&answer, self.kept_for(), |bytes| self.answer(0, bytes)),
            Err(e) => self.answer(-(e as i32), &[]),
        }
    }

    fn send_bytes(self, bytes: &[u8]) {
        self.answer(0, bytes);
    }

    fn fill(self, size: usize, fill: Fill<'_>) -> Option<Self> {
        self.answer_filled(size, fill)
    }

    fn hand_on(&mut self) -> Option<Task> {
        self.alone = None;
        Some(self.task.clone())
    }

    fn leave_in_hand(&mut self) {
        self.working = Some(self.task.working());
    }

    fn put_aside(&mut self) -> Option<Task> {
        (self.working, self.again) = (None, None);
        self.hand_on()
    }

    fn may_wait_for_kernel(&mut self) -> bool {
        match &mut self.way {
            Way::Device => true,
            Way::Ring(entry) => entry.may_wait(),
        }
    }

    fn may_be_slowed(&mut self) -> bool {
        // What a server before this one had taken is waited for by all that came since.
        self.again.is_none() && self.may_wait_for_kernel()
    }

    fn list(self, size: usize, plus: bool, list: List<'_>) {
        let size = size.min(super::negotiation::MAX_WRITE_BYTES as usize);
        let most = self.kept_for();
        self.answer_filled(size, &mut |buffer| {
            let mut listing = Listing::new(buffer, plus).kept_for(most);
            list(&mut |group| listing.add_group(group))?;
            Ok(listing.bytes().len())
        });
    }
}

/// Who carries out requests.
#[derive(Clone, Copy)]
pub(super) struct Hand<'a> {
    /// What changes are remembered by; a worker's are not: it is given only what comes to the same when it is done twice.
    pub(super) reader: Option<u64>,
    /// Where a reader notes what it works on.
    pub(super) seat: Option<&'a Seat>,
}

/// Whether it was asked by a thread of this process, which has the kernel write back what programs have written: nobody else learns of it.
fn is_own(thread: u32) -> bool {
    thread != 0 && std::fs::exists(format!("/proc/self/task/{thread}")).unwrap_or(false)
}

/// Whether nobody learns anything from its answer: a file is closed, a node is forgotten, or the kernel writes something back, or says what
/// is not understood here.
fn tells_nobody(parts: &Parts<'_>) -> bool {
    let quiet = [opcode::FORGET, opcode::BATCH_FORGET, opcode::RELEASE, opcode::RELEASEDIR, opcode::DESTROY];
    let is_request = || matches!(wire::decode(parts), Ok(Decoded::Request(_)));
    quiet.contains(&parts.header.opcode) || parts.is_write_back() || !is_request()
}

/// Carries out a request, as soon as it may be answered; `again`: it was given to a server before.
pub(super) fn serve(
    desk: &Arc<Desk>,
    adapter: &Adapter,
    parts: &Parts<'_>,
    (way, again): (Way, Option<Again>),
    hand: Hand<'_>,
) {
    let is_quiet = desk.gate.is_some() && tells_nobody(parts);
    if let (Some(gate), Way::Device) = (&desk.gate, &way)
        && !is_quiet
    {
        match gate.look() {
            Verdict::Now => {}
            _ if is_own(parts.header.pid) => {}
            Verdict::Later => return gate.put_aside(&desk.device, parts, again),
            Verdict::Never => {
                return desk.device.answer(parts.header.unique, -(Errno::EIO as i32), &[]);
            }
        }
    }
    carry_out(desk, adapter, parts, (way, again, is_quiet), hand);
}

/// The same at once; `is_quiet`: by a gate, nobody learns anything from its answer.
pub(super) fn carry_out(
    desk: &Arc<Desk>,
    adapter: &Adapter,
    parts: &Parts<'_>,
    (way, again, is_quiet): (Way, Option<Again>, bool),
    hand: Hand<'_>,
) {
    let InHeader { unique: tag, opcode, pid, nodeid: node, .. } = parts.header;
    let unique = tag & !UNIQUE_RESEND;
    let fault = fault::later(parts.args);
    let task = Task { desk: Arc::clone(desk), unique, tag, opcode, pid, is_suspect: false, fault };
    let reply =
        TaskReply { task, way, node, working: None, alone: None, again, is_answered: false, is_quiet };
    match wire::decode(parts) {
        Ok(Decoded::Request(request)) => {
            let mut reply = reply;
            if let Some(again) = &reply.again {
                if let Some(answer) = adapter.answer_again(unique, &request) {
                    return reply.send(adapter.durable(&request.op, answer));
                }
                match again.try_suspect(unique) {
                    Ok(is_suspect) => reply.task.is_suspect = is_suspect,
                    Err(Convicted) => {
                        log::error!(
                            "request {unique}, of kind {opcode}: servers died of it; it is answered EIO"
                        );
                        reply.send(Err(Errno::EIO));
                        // Some of it may have been done.
                        return adapter.drop_kept(request.node);
                    }
                }
                reply.alone = reply.task.alone();
            }
            // Not before: who waits to be alone is not to blame if a server dies.
            let working = match hand.seat {
                Some(seat) => seat.work(unique, opcode),
                None => reply.task.working(),
            };
            if request.op.is_write_back() {
                if let Some(seat) = hand.seat {
                    seat.note_write_back();
                }
                fault::slow_down();
            }
            // While an answer is held, its change stays the last one that its reader is known for. (What comes without being asked for comes to the
            // same when it is done twice.)
            let is_held = || desk.gate.as_ref().is_some_and(|gate| gate.look() != Verdict::Now);
            let is_unasked = is_quiet || is_held() && is_own(pid);
            let _made_for = match hand.reader.filter(|_| !is_unasked) {
                Some(reader) => MadeFor::request(Origin { reader, unique }, working.steps()),
                None => MadeFor::steps_of(working.steps()),
            };
            if let (Some(gate), Op::Release) = (&desk.gate, &request.op) {
                gate.opened().closes(request.node);
            }
            fault::strike(parts.rest);
            adapter.handle(&request, reply);
        }
        Ok(Decoded::Forget { node, count }) => {
            reply.expects_none();
            adapter.forget(node, count);
        }
        Ok(Decoded::Forgets(forgets)) => {
            reply.expects_none();
            for (node, count) in forgets.iter() {
                adapter.forget(node, count);
            }
        }
        Ok(Decoded::Destroy) => reply.send(Ok(Answer::Done)),
        Ok(Decoded::Unknown) => reply.send(Err(Errno::ENOSYS)),
        Err(Malformed) => {
            log::error!("a request of kind {opcode} is malformed");
            reply.send(Err(Errno::EIO));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::awaited::Awaited;
    use super::super::device::Device;
    use super::super::ledger::Ledger;
    use super::super::long::{Long, Step};
    use super::super::settling::Settling;
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// A request with this number, and where its answer comes.
    fn request(tag: u64) -> (TaskReply, UnixDatagram) {
        let (kernel, ours) = UnixDatagram::pair().unwrap();
        kernel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let device = Arc::new(Device::new(ours.into()));
        let settling = Arc::new(Settling::nothing());
        let desk = Arc::new(Desk { device, ledger: Ledger::new(), settling, gate: None, volume: 1 });
        let task = Task { desk, unique: tag, tag, opcode: 4, pid: 0, is_suspect: false, fault: None };
        let reply = TaskReply {
            task,
            way: Way::Device,
            node: 1,
            working: None,
            alone: None,
            again: None,
            is_answered: false,
            is_quiet: false,
        };
        (reply, kernel)
    }

    /// The length, the error and the number of what comes.
    fn answer(kernel: &UnixDatagram) -> (u32, i32, u64) {
        let mut bytes = [0; 64];
        let len = kernel.recv(&mut bytes).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(len, word(0) as usize);
        (word(0), word(4) as i32, u64::from_ne_bytes(bytes[8..16].try_into().unwrap()))
    }

    /// It waited for ever.
    #[test]
    fn a_long_request_whose_job_panics_is_answered() {
        let (mut reply, kernel) = request(7);
        let (task, mut reply) = (reply.hand_on(), Some(reply));
        let mut steps = 0;
        let job = move |_| {
            steps += 1;
            assert!(steps < 3, "as a bug would");
            if steps > 3 {
                reply.take().unwrap().send(Ok(Answer::Done));
            }
            Step::More
        };
        Long::new(Box::new(|| false)).run(task, Box::new(job));
        assert_eq!(answer(&kernel), (16, -libc::EIO, 7));
    }

    /// As of a waiter in a queue whose owner has panicked before.
    #[test]
    fn a_request_that_is_let_go_of_without_a_panic_is_answered() {
        let (reply, kernel) = request(9);
        drop(reply);
        assert_eq!(answer(&kernel), (16, -libc::EIO, 9));
        let (reply, kernel) = request(11);
        reply.send(Ok(Answer::Done));
        assert_eq!(answer(&kernel), (16, 0, 11));
        kernel.set_nonblocking(true).unwrap();
        assert!(kernel.recv(&mut [0; 64]).is_err(), "it is answered once");
    }

    /// A sync that waited for its remote stayed, with its process, for as long as that was away.
    #[test]
    fn who_waits_for_something_far_away_can_be_killed() {
        let awaited = Awaited::default();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (mut dead, of_dead) = request(15);
        (dead.task.pid, dead.again) = (child.id(), None);
        dead.leave_in_hand();
        let (mut alive, of_alive) = request(17);
        alive.task.pid = std::process::id();
        let ledger = Arc::clone(&dead.task.desk.ledger);
        assert!(ledger.oldest().is_some());
        let (dead, alive) = (awaited.put_aside(dead), awaited.put_aside(alive));
        assert_eq!(ledger.oldest(), None, "nobody works on it");
        child.wait().unwrap();
        assert_eq!(answer(&of_dead), (16, -libc::EINTR, 15));
        alive(Ok(Answer::Done));
        assert_eq!(answer(&of_alive), (16, 0, 17));
        dead(Ok(Answer::Done));
        of_dead.set_nonblocking(true).unwrap();
        assert!(of_dead.recv(&mut [0; 64]).is_err(), "it is answered once");
    }

    #[test]
    fn what_wants_no_answer_gets_none() {
        let (reply, kernel) = request(13);
        kernel.set_nonblocking(true).unwrap();
        reply.expects_none();
        assert!(kernel.recv(&mut [0; 64]).is_err());
    }
}
