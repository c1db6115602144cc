//! Objects that are in the place of those that were to be there: cut off, or made by somebody who can write to the remote.

use super::{Memory, attached, id_of, kept, made, reread, shipper, try_shipper};
use crate::model::harness::new_disk;
use crate::model::view;
use crate::support::pattern;
use bytes::Bytes;
use larder::crypto::Keys;
use larder::remote::{
    Contents, Fetcher, Log, Objects, RemoteError, RemoteSealer, Seen, ShipError, attach, names,
};
use larder::store::StoreId;
use std::sync::Arc;

fn sealer(store: StoreId) -> RemoteSealer {
    RemoteSealer::new(store, &Keys::Plain, "memory:")
}

/// The same record, which frees all that it brings.
fn another_record(name: &str, bytes: Bytes) -> Bytes {
    let store = StoreId(u128::from_be_bytes(*bytes[16..].first_chunk().unwrap()));
    let number = names::record_number(name).unwrap();
    let mut record = sealer(store).open_record(number, bytes).unwrap();
    let Contents::Commit(commit) = &mut record.contents else { panic!("it is a {}", record.contents.kind()) };
    commit.freed = commit.blocks.iter().map(larder::remote::Blocks::run).collect();
    sealer(store).seal_record(number, &record.head, &record.contents).unwrap().bytes
}

/// It was taken for the one whose answer was lost, because it says the same of itself.
#[test]
fn a_record_that_only_looks_like_the_one_that_was_written_is_not_it() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    shipping.ship(&made.store).unwrap();
    made.write("f", &pattern(20_000, 1));
    made.store.commit_now().unwrap();
    *memory.forestalled.lock() = Some(("log/", another_record));
    let number = shipping.log().state().newest.number + 1;
    for _ in 0..2 {
        let refused = shipping.ship(&made.store).unwrap_err();
        assert!(
            matches!(&refused, ShipError::Remote(RemoteError::Damaged { name, .. }) if *name == names::record(number)),
            "{refused}"
        );
    }
    // Somebody has removed it.
    memory.objects.lock().remove(&names::record(number));
    shipping.ship(&made.store).unwrap();
    // An answer that is lost is none of this.
    made.write("g", &pattern(20_000, 2));
    made.store.commit_now().unwrap();
    *memory.forestalled.lock() = Some(("log/", |_, bytes| bytes));
    shipping.ship(&made.store).unwrap().unwrap();
    assert!(memory.forestalled.lock().is_none());
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// Whatever was there was taken for the part, and the record named it.
#[test]
fn a_part_whose_name_is_taken_is_written_elsewhere() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    let forgeries: [super::Forge; 4] = [
        |_, bytes| bytes.slice(..bytes.len() / 2),
        |_, bytes| {
            let mut other = bytes.to_vec();
            *other.last_mut().unwrap() ^= 1;
            other.into()
        },
        |_, bytes| [&bytes[..], b"more"].concat().into(),
        // The answer of the request was lost.
        |_, bytes| bytes,
    ];
    for (round, forge) in (0..).zip(forgeries) {
        let before = memory.names("data/").len();
        made.write(&format!("f{round}"), &pattern(3 << 20, round));
        made.store.commit_now().unwrap();
        *memory.forestalled.lock() = Some(("data/", forge));
        shipping.ship(&made.store).unwrap().unwrap();
        assert!(memory.forestalled.lock().is_none());
        let came = memory.names("data/").len() - before;
        assert_eq!(came, if round < 3 { 2 } else { 1 }, "{round}");
        assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store), "{round}");
    }
    made.close();
}

/// What it says was left out, as if the store had been empty then, and the record behind it was blamed.
#[test]
fn what_is_no_image_is_not_taken_for_one() {
    let made = made(new_disk(None, None));
    let (id, memory, kept) = (id_of(&made.disk), Arc::new(Memory::default()), kept());
    let mut shipping = shipper(&memory, id, &Keys::Plain, &kept);
    for name in ["f", "g", "h"] {
        made.write(name, &pattern(20_000, 1));
        made.store.commit_now().unwrap();
        shipping.ship(&made.store).unwrap().unwrap();
    }
    let image = shipping.log().state().image;
    drop(shipping);
    let objects: Arc<dyn Objects> = Arc::clone(&memory) as Arc<dyn Objects>;
    let log = Log::open(objects, sealer(id), Seen::Nothing).unwrap();
    let whole = log.read(image).unwrap();
    let mut head = whole.head.clone();
    head.image = image - 1;
    let goodbye = {
        let mut head = head.clone();
        head.claim = 0;
        (head, Contents::Goodbye)
    };
    let commit = (head, Contents::Commit(Box::default()));
    let name = names::record(image);
    let is_told = |e: &RemoteError| {
        let RemoteError::Damaged { name: found, .. } = e else { panic!("{e}") };
        assert_eq!(*found, name, "{e}");
    };
    let object = memory.get(&name, u64::MAX).unwrap();
    for (head, contents) in [goodbye, commit] {
        let forged = sealer(id).seal_record(image, &head, &contents).unwrap().bytes;
        memory.put(&name, forged).unwrap();
        let records = memory.names("log/");
        is_told(&try_shipper(&memory, id, &Keys::Plain, &reread(&kept)).unwrap_err());
        assert_eq!(memory.names("log/"), records, "nothing was claimed");
        is_told(&Fetcher::of(&log).map(drop).unwrap_err());
        is_told(&attach(&log, &mut Nowhere).map(drop).unwrap_err());
    }
    memory.put(&name, object).unwrap();
    let mut shipping = shipper(&memory, id, &Keys::Plain, &reread(&kept));
    shipping.ship(&made.store).unwrap();
    assert!(attached(&memory, id, &Keys::Plain) == view::of_store(&made.store));
    made.close();
}

/// Pages that nobody wants.
struct Nowhere;

impl larder::remote::Pages for Nowhere {
    fn put(&mut self, _: u32, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}
