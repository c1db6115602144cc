//! Snapshots that are held: nobody removes them.

use crate::support::{Host, run};
use serde_json::{Value, json};
use std::fs;

fn features(host: &Host, volume: &str) -> Vec<String> {
    let header = fs::read(host.store(volume).join("header.json")).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["features"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn holds(host: &Host, volume: &str) -> Value {
    let listed = host.json(&["snapshot", "ls", volume, "--json"]);
    listed.as_array().unwrap().iter().map(|snapshot| snapshot["holds"].clone()).collect()
}

#[test]
fn a_held_snapshot_is_removed_by_nobody() {
    for host in Host::each_kind() {
        let dir = host.volume("v", &[]);
        fs::write(dir.join("f"), "kept").unwrap();
        for name in ["v@a", "v@b", "v@c"] {
            host.ok(&["snapshot", "create", name, "--label", "app=shop"]);
        }
        assert!(!features(&host, "v").contains(&"holds".to_owned()));
        assert_eq!(host.ok(&["hold", "backup", "v@a"]), "v@a\n");
        // Who does not know of holds, and would remove it, does not open the store.
        assert!(features(&host, "v").contains(&"holds".to_owned()));
        host.ok(&["hold", "audit", "v@[ab]"]);
        assert_eq!(holds(&host, "v"), json!([["audit", "backup"], ["audit"], []]));
        assert!(host.ok(&["snapshot", "ls", "v"]).contains("audit,backup"));
        // They are no labels.
        let shown = host.json(&["inspect", "v"]);
        assert_eq!(shown["snapshots"][0]["labels"], json!({ "app": "shop" }));
        assert_eq!(shown["snapshots"][0]["holds"], json!(["audit", "backup"]));
        assert!(host.fails(4, &["hold", "backup", "v@a"]).contains("already has a hold"));
        assert!(host.fails(3, &["hold", "backup", "v@x"]).contains("no snapshot v@x"));
        assert!(host.fails(3, &["hold", "backup", "v@x*"]).contains("matches"));
        assert!(host.fails(3, &["release", "nobody", "v@a"]).contains("no hold \"nobody\""));
        assert!(host.fails(2, &["hold", "a b", "v@a"]).contains("tag"));
        assert!(host.fails(2, &["hold", "\u{1}hold:x", "v@a"]).contains("tag"));

        let removals = |is_mounted: bool| {
            let why = host.fails(5, &["snapshot", "rm", "v@a"]);
            assert!(
                why.contains("v@a is held (audit, backup)") && why.contains("larder release audit v@a"),
                "{why}"
            );
            if !is_mounted {
                for args in [&["rm", "v"][..], &["rm", "v", "--force"]] {
                    assert!(host.fails(5, args).contains("v@a is held"));
                }
                // A volume that it would be asked for.
                let output = run(&mut host.command(&["prune", "--force"]));
                assert!(!output.status.success());
                assert!(String::from_utf8_lossy(&output.stderr).contains("held"));
            }
            let pruned = host.json(&["snapshot", "prune", "v", "--keep-last", "1", "--dry-run", "--json"]);
            assert_eq!(pruned[0]["keep"][2]["name"], "a");
            assert_eq!(pruned[0]["keep"][2]["reasons"], json!(["held (audit, backup)"]));
            assert_eq!(pruned[0]["remove"], json!([]));
        };
        removals(true);
        host.kill_server("v");
        host.umount("v");
        if host.key_file().is_none() {
            removals(false);
        } else {
            // Without its secret, nobody knows whether a snapshot is held.
            let mut command = std::process::Command::new(crate::support::larder());
            let output = run(command.arg("--root").arg(host.root()).args(["rm", "v", "--force"]));
            assert_eq!(output.status.code(), Some(13));
            assert!(String::from_utf8_lossy(&output.stderr).contains("may be held"));
            assert!(host.fails(5, &["rm", "v", "--force"]).contains("v@a is held"));
        }
        // In a store that others live in.
        host.ok(&["clone", "v@a", "c"]);
        assert_eq!(host.json(&["inspect", "c"])["snapshots"], json!([]));
        assert!(host.fails(5, &["rm", "v", "--force"]).contains("v@a is held"));
        host.mount("c", &[]);
        assert!(host.fails(5, &["rm", "v", "--force"]).contains("v@a is held"));
        host.umount("c");
        host.ok(&["rollback", "v@a"]);
        host.ok(&["rename", "v@a", "kept"]);
        host.ok(&["rename", "v", "w"]);
        assert!(host.fails(5, &["snapshot", "rm", "w@kept"]).contains("w@kept is held"));
        host.check("w");
        // The others go, and the held ones when they are let go of.
        let output = run(&mut host.command(&["snapshot", "rm", "w@*", "--force"]));
        assert_eq!(output.status.code(), Some(5));
        assert_eq!(holds(&host, "w"), json!([["audit", "backup"], ["audit"]]));
        assert_eq!(host.ok(&["release", "audit", "w@kept", "w@b"]), "w@kept\nw@b\n");
        host.ok(&["snapshot", "rm", "w@b"]);
        assert!(host.fails(5, &["rm", "w"]).contains("held (backup)"));
        host.mount("w", &[]);
        host.ok(&["release", "backup", "w@kept"]);
        host.umount("w");
        host.ok(&["rm", "w"]);
        host.check("c");
        host.ok(&["rm", "c"]);
    }
}
