//! What needs no mount.

use super::user::{UID, User};
use crate::support::shell;
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
fn everything_that_needs_no_mount_works_in_a_root_of_the_users_own() {
    let user = User::new();
    // Nothing is made by looking.
    user.run("larder ls");
    assert!(!user.home().join(".local").exists());
    user.sh(
        "larder create db --size 1G --label app=shop; larder snapshot create db@one; larder clone db@one copy
             larder snapshot ls db | grep -q one; larder resize db --size 2G; larder diff db@one; larder df db
             larder check db --read-data; larder rollback db@one; larder inspect copy > /dev/null
             echo 0123456789abcdef0123456789abcdef > key; larder create safe --encrypt --key-file key
             larder snapshot create safe@one --key-file key; larder check safe --key-file key",
    );
    let root = user.host.root();
    let theirs = format!("{UID} {UID} 700");
    assert_eq!(shell(root, "stat -c '%u %g %a' . stores volumes"), format!("{theirs}\n").repeat(3));
    assert_eq!(shell(root, &format!("find . -not -uid {UID}")), "");
    let names: Vec<String> =
        user.json("larder ls --json").as_array().unwrap().iter().map(|v| v["name"].to_string()).collect();
    assert_eq!(names, ["\"copy\"", "\"db\"", "\"safe\""]);
    user.sh("larder snapshot rm db@one; larder rm --force copy db safe");
    assert_eq!(user.json("larder ls --json").as_array().unwrap().len(), 0);

    // Elsewhere, where the user's data is elsewhere; a path that is none of the whole tree is passed over, as the standard has it.
    user.sh("XDG_DATA_HOME=$HOME/data larder create v; XDG_DATA_HOME=data larder create w; LARDER_ROOT=$HOME/root larder create x");
    for (dir, name) in [("data/larder", "v"), (".local/share/larder", "w"), ("root", "x")] {
        let made = fs::symlink_metadata(user.home().join(dir).join("volumes").join(name)).unwrap();
        assert_eq!(made.uid(), UID);
    }
    // The administrator's root is not theirs.
    let refused = user.fails(7, "larder --root /var/lib/larder create v");
    assert!(refused.contains("/var/lib/larder"), "{refused}");
}
