//! Volumes that share a store.

use super::Kept;
use std::fs;

/// `q` is a clone of `p`, and mounted or not.
fn family(host: &Kept, is_served: bool) {
    host.precious("p", "of p");
    host.host.ok(&["clone", "p@one", "q"]);
    if is_served {
        host.mount("q", &[]);
    }
}

fn end(host: &Kept, is_served: bool) {
    if is_served {
        host.umount("q");
    }
    host.check("q");
}

#[test]
fn a_volume_of_a_family_goes_and_comes_back_without_the_others_noticing() {
    for is_served in [false, true] {
        for host in Kept::each_kind() {
            family(&host, is_served);
            // Nobody needs the key for this.
            host.does(&["rm", "p"]);
            assert_eq!((host.names(), host.trashed_names()), (vec!["q".to_owned()], vec!["p".to_owned()]));
            host.host.fails(3, &["inspect", "p"]);
            host.does(&["trash", "restore", "p"]);
            end(&host, is_served);
            assert_eq!(host.says("p"), "of p");
            // The last one of a family that goes leaves the store to those in the trash.
            host.does(&["rm", "p"]);
            host.host.ok(&["rm", "--now", "q"]);
            assert_eq!((host.stores(), host.names().len()), (1, 0));
            host.does(&["trash", "restore", "p"]);
            assert_eq!(host.says("p"), "of p");
            host.host.ok(&["rm", "--now", "p"]);
            assert_eq!(host.stores(), 0);
        }
    }
}

#[test]
fn a_name_in_the_trash_is_free_also_for_another_volume_of_the_family() {
    for is_served in [false, true] {
        for host in Kept::each_kind() {
            family(&host, is_served);
            for contents in ["second", "third"] {
                host.does(&["rm", "p"]);
                host.host.ok(&["clone", "q", "p"]);
                let dir = host.mount("p", &[]);
                fs::write(dir.join("file"), contents).unwrap();
                host.host.ok(&["snapshot", "create", "p@one"]);
                host.host.umount("p");
            }
            host.does(&["rm", "p"]);
            let ids: Vec<String> =
                host.trash().iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect();
            assert_eq!((ids.len(), host.stores()), (3, 1));
            // The first, under the name that it had, which the last one has in the store.
            host.does_with_key(&["trash", "restore", &ids[0]]);
            assert_eq!(host.says("p"), "of p");
            host.does_with_key(&["trash", "restore", &ids[2], "third"]);
            assert_eq!(host.says("third"), "third");
            host.does_with_key(&["trash", "restore", &ids[1], "second"]);
            assert_eq!(host.says("second"), "second");
            end(&host, is_served);
            host.does(&["rm", "p", "second"]);
            host.does_with_key(&["trash", "empty", "--force"]);
            host.check("q");
            assert_eq!(host.says("third"), "third");
            host.host.ok(&["rm", "--now", "q"]);
            host.host.ok(&["rm", "--now", "third"]);
            assert_eq!(host.stores(), 0);
        }
    }
}

#[test]
fn a_volume_of_a_family_is_removed_for_good_by_its_server_or_with_its_secret() {
    let host = Kept::new(crate::support::Host::encrypted());
    family(&host, true);
    host.does(&["rm", "p"]);
    host.does(&["trash", "empty", "--force"]);
    host.umount("q");
    assert_eq!((host.trash().len(), host.names().len()), (0, 1));
    host.check("q");
    host.host.ok(&["clone", "q", "p"]);
    host.does(&["rm", "p"]);
    // Nobody is asked, and nothing is lost.
    assert!(host.refuses(13, &["trash", "empty", "--force"]).contains("cannot remove p~"));
    assert_eq!(host.trashed_names(), ["p"]);
    // What is remembered of a volume opens it.
    host.does(&["trash", "restore", "p"]);
    host.does(&["set", "p", &format!("key-file={}", host.key_file().unwrap().display())]);
    host.does(&["rm", "p"]);
    host.does(&["trash", "empty", "--force"]);
    assert!(host.trash().is_empty());
    // With the last volume of a store, the store goes: that needs no key.
    host.host.ok(&["clone", "q", "p"]);
    host.does(&["rm", "p"]);
    host.does(&["rm", "q"]);
    let last = host.trash()[1]["id"].as_str().unwrap().to_owned();
    host.refuses(13, &["trash", "empty", "--force", &last]);
    host.does_with_key(&["trash", "empty", "--force", &last]);
    host.does(&["trash", "empty", "--force"]);
    assert_eq!(host.stores(), 0);
}
