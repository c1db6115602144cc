//! What a server does that has no mount of the kernel's.

use super::super::client::with_socket_path;
use super::super::control::{Channel, Reply, Request, Status};
use super::super::holder::link::{Link, Received, ToHolder, ToServer};
use super::super::keeper::Knows;
use super::super::listener::{Attended, Caller};
use super::*;
use crate::volume::{Alteration, LimitChanges, VolumeSpec, create, lock_store};
use nix::unistd::gettid;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use tempfile::TempDir;

/// A server of a store with the volume `v`, and its holder's end of what they talk over.
fn server() -> (TempDir, Arc<Server>, Link) {
    server_of(Knows {
        newer: true,
        losses: true,
        orders: true,
        rest: true,
        open_files: true,
        durability: true,
    })
}

/// The same, where the holder knows so much.
fn server_of(knows: Knows) -> (TempDir, Arc<Server>, Link) {
    let tmp = tempfile::tempdir().unwrap();
    let root = Root::new(tmp.path().join("root"));
    let spec = VolumeSpec {
        name: "v".into(),
        limits: LimitChanges::default(),
        uid: 0,
        gid: 0,
        mode: 0o755,
        labels: BTreeMap::new(),
        remote: None,
    };
    let store = create(&root, &spec).unwrap();
    let lock = lock_store(&root.store(store), Duration::ZERO).unwrap();
    let (holder, socket) = Link::pair(Duration::from_millis(50)).unwrap();
    let endowment = Endowment {
        keeper: Keeper::new(Link::of(socket), knows),
        lock: lock.as_fd().try_clone_to_owned().unwrap(),
        keys: Vec::new(),
        listener: None,
        mounts: Vec::new(),
        executed: Vec::new(),
        suspects: Vec::new(),
        incarnation: 0,
    };
    let options = ServerOptions { root, store, endowment, open: StoreOptions::default() };
    (tmp, Server::start(options).unwrap(), holder)
}

/// It would be killed while it writes back.
#[test]
fn a_server_that_is_ending_asks_for_no_successor() {
    let (_tmp, server, holder) = server();
    let is_answered = AtomicBool::new(false);
    let ask = || server.replace(b"/bin/true").unwrap_err().message;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_answered.load(Ordering::Relaxed) {
                if let Received::Message(ToHolder::Replace { .. }, _) = holder.receive().unwrap() {
                    holder.send(&ToServer::Refused { message: "asked".into() }, None).unwrap();
                    // As its main thread does.
                    server.keeper.hear();
                }
            }
        });
        let before = ask();
        server.state.lock().ending = true;
        let after = ask();
        is_answered.store(true, Ordering::Relaxed);
        assert_eq!(before, "asked");
        assert!(after.contains("is ending"), "{after}");
    });
    server.close(None);
}

/// The next server took it for `durability=local`, and syncs returned before the remote had anything.
#[test]
fn durability_is_not_set_where_the_next_server_would_not_know_it() {
    for durability in [false, true] {
        let knows =
            Knows { newer: true, losses: true, orders: true, rest: true, open_files: false, durability };
        let (_tmp, server, _holder) = server_of(knows);
        let options = MountOptions::default();
        let fs = server.open_volume("v", &options).unwrap();
        let name = MountName { volume: "v".into(), number: Some(1) };
        let of_it = ("/nowhere".into(), None, Arc::new(File::open("/dev/null").unwrap().into()));
        server.register(&name, of_it, &options, &fs).unwrap();
        server.remount("v", options.clone()).unwrap();
        let remote = MountOptions { durability: mount::Durability::Remote, ..options };
        match (server.remount("v", remote), durability) {
            (Ok(()), true) => assert!(fs.syncs_remotely()),
            (Err(e), false) => {
                assert!(e.exit == Exit::Busy && e.message.contains("mount it again"), "{e}");
                assert!(!fs.syncs_remotely());
            }
            (result, _) => panic!("{durability}: {result:?}"),
        }
        server.close(None);
    }
}

/// Otherwise the next one is served, and said to be gone.
#[test]
fn a_volume_is_mounted_again_when_all_is_said_of_its_mount_before() {
    let (_tmp, server, holder) = server();
    let options = MountOptions::default();
    let fs = server.open_volume("v", &options).unwrap();
    let register = |number| {
        let name = MountName { volume: "v".into(), number: Some(number) };
        server.register(
            &name,
            ("/nowhere".into(), None, Arc::new(File::open("/dev/null").unwrap().into())),
            &options,
            &fs,
        )
    };
    register(1).unwrap();
    // The holder listens to nobody for now.
    for _ in 0..100_000 {
        server.keeper.beat(0);
    }
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send.send(gettid()).unwrap();
            server.unmounted("v");
        });
        let wchan = format!("/proc/self/task/{}/wchan", receive.recv().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        let waits =
            || std::fs::read_to_string(&wchan).is_ok_and(|wchan| wchan.starts_with("sock_alloc_send"));
        while !waits() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (was_waiting, again) = (waits(), register(2));
        while !matches!(
            holder.receive().unwrap(),
            Received::Message(ToHolder::Gone { number: Some(1), .. }, _)
        ) {}
        assert!(was_waiting);
        assert_eq!(again.unwrap_err().exit, Exit::Busy);
    });
    register(3).unwrap();
    server.close(None);
}

/// It was killed while it closed the store, and the next one began with all of that again.
#[test]
fn a_server_that_closes_gives_signs_of_life_also_without_a_thread_for_them() {
    for has_thread in [true, false] {
        let (_tmp, server, holder) = server();
        let start = |work: Box<dyn FnOnce() + Send>| match has_thread {
            true => std::thread::Builder::new().spawn(work).map(drop),
            false => Err(std::io::ErrorKind::WouldBlock.into()),
        };
        let time = 3 * BEAT + BEAT / 2;
        let signs = std::thread::scope(|scope| {
            let (held, is_held) = std::sync::mpsc::channel();
            // As a disk that takes long.
            scope.spawn({
                let server = &server;
                move || {
                    let _meta = server.store.meta();
                    held.send(()).unwrap();
                    std::thread::sleep(time);
                }
            });
            is_held.recv().unwrap();
            let listening = scope.spawn(|| {
                let mut signs = 0;
                let until = Instant::now() + time;
                while Instant::now() < until {
                    signs += u32::from(matches!(
                        holder.receive().unwrap(),
                        Received::Message(ToHolder::Beat { .. }, _)
                    ));
                }
                signs
            });
            close_attended(&server, Attendance::new(&server, None), start);
            listening.join().unwrap()
        });
        assert!(signs >= 2, "{signs}");
        assert!(server.state.lock().closed);
    }
}

/// Waits until no thread of the store is at anything, as after it was opened or has committed: one may hold the metadata for a moment.
fn rests(server: &Server) {
    let until = Instant::now() + Duration::from_secs(60);
    while !server.store.is_at_rest() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(server.store.is_at_rest());
}

/// Each question cost a thread, which read the metadata again.
#[test]
fn how_a_store_is_that_nobody_changes_is_told_without_a_wait_and_as_it_is() {
    let (_tmp, server, _holder) = server();
    server.store.commit_now().unwrap();
    assert!(server.status_now().is_none(), "nobody has looked at it yet");
    let said =
        |status: Status| serde_json::to_value(Status { uptime_s: 0, longest_hold_us: 0, ..status }).unwrap();
    let told = || {
        rests(&server);
        let asked = server.status().unwrap();
        Some((server.status_now()?, asked))
    };
    let (now, asked) = told().unwrap();
    assert_eq!(said(now), said(asked));
    {
        let _held = server.store.meta();
        assert!(server.status_now().is_none(), "it would wait");
    }
    // It is changed, by a commit of its own, and in the open transaction.
    let (volume, name) = ("v".to_owned(), "s".to_owned());
    server.alter(&Alteration::Snapshot { volume, name, labels: BTreeMap::new() }).unwrap();
    assert!(server.status_now().is_none());
    assert_eq!(told().unwrap().0.volumes[0].snapshots.len(), 1);
    server.store.meta().touch();
    assert!(server.status_now().is_none());
    server.close(None);
}

#[test]
fn who_asks_how_a_store_is_is_answered_by_the_main_thread_and_nobody_else_is() {
    let (_tmp, server, _holder) = server();
    let connect = || {
        let stream = with_socket_path(&server.path, |path| UnixStream::connect(path)).unwrap();
        let caller = Caller::let_in(&server, server.listener.get().unwrap()).unwrap().unwrap();
        (Channel::to_server(stream), caller)
    };
    let waits = |attended| match attended {
        Attended::Waits(caller) => caller,
        Attended::Takes(_) => panic!("it would take a thread"),
        Attended::Gone => panic!("it is gone"),
    };
    let takes = |attended| match attended {
        Attended::Takes(caller) => caller,
        _ => panic!("it would be answered here"),
    };
    let (mut client, caller) = connect();
    // Who has asked nothing yet is waited for by nobody.
    let caller = waits(caller.attend());
    client.send(&Request::Status, None).unwrap();
    // What has to be read from the disk takes time.
    let caller = takes(caller.attend());
    server.store.commit_now().unwrap();
    rests(&server);
    server.volumes().unwrap();
    let caller = waits(caller.attend());
    assert!(
        matches!(client.receive().unwrap(), Some(Reply::Status(status)) if status.volumes[0].name == "v")
    );
    client.send(&Request::Alive, None).unwrap();
    let caller = waits(caller.attend());
    assert!(matches!(client.receive().unwrap(), Some(Reply::Done)));
    // Who does not read what is answered is not waited for, and gets all of it.
    const MANY: u32 = 200;
    for _ in 0..MANY {
        client.send(&Request::Status, None).unwrap();
    }
    takes(caller.attend()).hand_on().unwrap();
    for _ in 0..MANY {
        assert!(matches!(client.receive().unwrap(), Some(Reply::Status(_))));
    }
    drop(client);
    // One that asks for something else; one that says that it asks no more; one that goes away.
    let (mut client, caller) = connect();
    client.send(&Request::Snapshots { volume: "v".into() }, None).unwrap();
    let caller = takes(caller.attend());
    caller.hand_on().unwrap();
    assert!(matches!(client.receive().unwrap(), Some(Reply::Snapshots { .. })));
    drop(client);
    let (mut client, caller) = connect();
    client.send(&Request::Status, None).unwrap();
    client.asks_no_more().unwrap();
    assert!(matches!(caller.attend(), Attended::Gone));
    assert!(matches!(client.receive().unwrap(), Some(Reply::Status(_))));
    let (client, caller) = connect();
    drop(client);
    assert!(matches!(caller.attend(), Attended::Gone));
    let until = Instant::now() + Duration::from_secs(60);
    while server.state.lock().visitors > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.state.lock().visitors, 0);
    server.close(None);
}
