//! Volumes in the trash whose store is gone.

use super::Kept;
use crate::support::Host;
use std::fs;

/// The disk of the stores is not there any more, or is not mounted.
fn lose_stores(host: &Kept) {
    host.end_servers(std::time::Duration::from_secs(20));
    let stores = host.root().join("stores");
    fs::remove_dir_all(&stores).unwrap();
    fs::create_dir(&stores).unwrap();
}

fn left(host: &Kept) -> usize {
    fs::read_dir(host.root().join("trash")).unwrap().count()
}

/// It could not be removed by anything but hand.
#[test]
fn what_has_lost_the_only_store_is_given_up_if_somebody_says_so() {
    for host in Kept::each_kind() {
        host.precious("db", "precious");
        host.does(&["rm", "db"]);
        lose_stores(&host);
        let id = host.trash()[0]["id"].as_str().unwrap().to_owned();
        let why = host.refuses(9, &["trash", "empty", "--force"]);
        assert!(
            why.contains("mount the disk") && why.contains(&format!("larder trash empty --lost {id}")),
            "{why}"
        );
        host.does(&["trash", "empty", "--expired"]);
        assert_eq!(host.trashed_names(), ["db"]);
        // Nobody gives up everything with one word too many.
        host.refuses(2, &["trash", "empty", "--force", "--lost"]);
        assert_eq!(host.does(&["trash", "empty", "--force", "--lost", &id]), format!("{id}\n"));
        assert_eq!((host.trash().len(), left(&host)), (0, 0));
    }
}

#[test]
fn volumes_of_a_family_that_is_lost_are_given_up_one_by_one() {
    let host = Kept::new(Host::plain());
    host.precious("a", "precious");
    host.does(&["clone", "a@one", "b"]);
    host.does(&["clone", "a@one", "c"]);
    host.does(&["rm", "a"]);
    host.does(&["rm", "b"]);
    lose_stores(&host);
    for name in ["a", "b"] {
        host.does(&["trash", "empty", "--force", "--lost", name]);
    }
    host.refuses(9, &["rm", "c"]);
    host.does(&["rm", "--force", "c"]);
    assert_eq!((host.names().len(), left(&host)), (0, 0));
    // A store that is there keeps the others from being lost.
    host.precious("d", "precious");
    host.does(&["rm", "d"]);
    host.does(&["trash", "empty", "--force", "--lost", "d"]);
    assert_eq!((host.stores(), left(&host)), (0, 0));
}
