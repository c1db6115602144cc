//! What each manual page shows: command lines that do something that people want, and what that is.

/// For the page of a command: what is done, and how.
pub(super) const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "larder",
        &[
            ("A volume of 10 GiB, mounted", "larder create db --size 10G\nlarder mount db /mnt/db"),
            ("List the volumes, and the space that they use", "larder ls\nlarder df"),
            (
                "A snapshot at any time, and a file fetched back from it",
                "larder snapshot create db@monday\ncp /mnt/db/.snapshots/monday/file /mnt/db/",
            ),
        ],
    ),
    (
        "larder-create",
        &[
            (
                "With exact limits and a label",
                "larder create db --size 10G --inodes 1000000 --label app=shop",
            ),
            (
                "For a container whose program runs as user 999",
                "larder create db --size 10G --uid 999 --gid 999 --mode 700",
            ),
            (
                "Encrypted, opened by a key file",
                "head -c 32 /dev/urandom | install -m 600 -D /dev/stdin /etc/larder/db.key\nlarder create db --encrypt --key-file /etc/larder/db.key",
            ),
            (
                "As another volume was at a snapshot, at once and without using space",
                "larder create test --from db@monday",
            ),
        ],
    ),
    (
        "larder-clone",
        &[(
            "A copy to try something on, with less room than the source",
            "larder clone db@monday test --size 5G",
        )],
    ),
    (
        "larder-snapshot",
        &[(
            "Make one, list them, remove one",
            "larder snapshot create db@monday\nlarder snapshot ls db\nlarder snapshot rm db@monday",
        )],
    ),
    (
        "larder-snapshot-create",
        &[(
            "With a label that says what it is for",
            "larder snapshot create db@before-upgrade --label keep=yes",
        )],
    ),
    ("larder-snapshot-ls", &[("For a program", "larder snapshot ls db --json")]),
    (
        "larder-snapshot-rm",
        &[
            ("Several at once", "larder snapshot rm db@monday db@tuesday"),
            ("All of a pattern, shown first", "larder snapshot rm db@daily-* --dry-run"),
        ],
    ),
    (
        "larder-snapshot-prune",
        &[(
            "All but the last seven of each day and four of each week",
            "larder snapshot prune db --keep-daily 7 --keep-weekly 4",
        )],
    ),
    (
        "larder-snapshot-rename",
        &[(
            "Of the volume, only the name of the snapshot changes",
            "larder snapshot rename db@monday before-upgrade",
        )],
    ),
    ("larder-hold", &[("Nobody removes it while a backup reads it", "larder hold backup db@monday")]),
    ("larder-release", &[("The backup is done", "larder release backup db@monday")]),
    (
        "larder-rename",
        &[
            ("A volume that is not mounted", "larder rename db shop-db"),
            ("A snapshot, at any time", "larder rename db@monday before-upgrade"),
        ],
    ),
    (
        "larder-rollback",
        &[
            ("Make an unmounted volume what it was", "larder rollback db@monday"),
            ("The same while it is mounted", "larder rollback db@monday --live"),
        ],
    ),
    (
        "larder-diff",
        &[
            ("What changed since a snapshot", "larder diff db@monday"),
            ("Between two of them, for a program", "larder diff db@monday db@tuesday --json"),
        ],
    ),
    (
        "larder-resize",
        &[
            ("More room, at once, also while containers run", "larder resize db --size 20G"),
            ("As many inodes as there is room for", "larder resize db --inodes none"),
        ],
    ),
    ("larder-ls", &[("For a program", "larder ls --json")]),
    ("larder-df", &[("Of one volume", "larder df db")]),
    ("larder-inspect", &[("Everything about a volume", "larder inspect db")]),
    (
        "larder-logs",
        &[
            ("What the servers of a volume have said lately", "larder logs db -n 50"),
            ("As it is said", "larder logs db --follow"),
            (
                "Warnings and errors of all volumes, where there is a journal",
                "journalctl SYSLOG_IDENTIFIER=larder -p warning",
            ),
        ],
    ),
    (
        "larder-mount",
        &[
            (
                "At once; it returns when the volume can be used",
                "larder mount db /mnt/db -o noatime,commit=1",
            ),
            ("A snapshot, which can only be read", "larder mount db@monday /mnt/monday"),
            ("At each boot, by systemd", "systemctl enable --now larder@db"),
            ("At each boot, by a line of /etc/fstab", "db /mnt/db larder noatime,_netdev,nofail 0 0"),
            ("Other options for what is mounted", "larder mount db /mnt/db -o remount,ro"),
        ],
    ),
    (
        "larder-umount",
        &[
            ("By name, or by directory", "larder umount db\nlarder umount /mnt/db"),
            ("Out of sight at once, although programs still use it", "larder umount --lazy db"),
            ("All, at the end of the day, whoever still uses them", "larder umount --all --force"),
        ],
    ),
    (
        "larder-rm",
        &[
            ("Volumes and all their data", "larder rm db test"),
            ("One that is sticky", "larder rm --force db"),
            ("For good, with what was shipped of it", "larder rm --now --remove-remote db"),
        ],
    ),
    (
        "larder-trash",
        &[
            ("What was removed, and one of it brought back", "larder trash ls\nlarder trash restore db"),
            ("Room at once: all of it is gone for good", "larder trash empty --force"),
        ],
    ),
    ("larder-trash-ls", &[("What was removed, and until when it is kept", "larder trash ls")]),
    (
        "larder-trash-restore",
        &[
            ("Under its name", "larder trash restore db"),
            ("Under another one, where the name was taken since", "larder trash restore db db-before"),
        ],
    ),
    (
        "larder-trash-empty",
        &[
            ("What has been there for long enough", "larder trash empty --expired"),
            ("What was on a disk that is lost for good", "larder trash empty --lost db"),
        ],
    ),
    (
        "larder-prune",
        &[
            ("All that nobody has mounted or needs, and that has no labels; asks before", "larder prune"),
            ("Those of one application, without asking", "larder prune --force --filter label=app=shop"),
            (
                "Also while Docker Engine is stopped, whatever its stopped containers need",
                "larder prune --ignore-silent-engines",
            ),
        ],
    ),
    (
        "larder-get",
        &[
            ("All options of a volume, and where each value comes from", "larder get db"),
            ("One of them, for a program", "larder get db commit --json"),
        ],
    ),
    (
        "larder-set",
        &[
            ("How containers get it from their next start on", "larder set db noatime=true cache-size=512M"),
            ("Protected from `docker compose down -v`", "larder set db sticky=true"),
            ("Where `larder mount db` and `larder mount --all` mount it", "larder set db mountpoint=/srv/db"),
            ("How far behind its remote may be, while it is mounted", "larder set db ship=60 max-lag=2G"),
        ],
    ),
    (
        "larder-check",
        &[
            ("The metadata, in seconds", "larder check db"),
            ("Every block as well", "larder check db --read-data"),
        ],
    ),
    (
        "larder-scrub",
        &[
            ("All that was not read for a month, as the timer does it", "larder scrub --all --due 30d"),
            ("One, as fast as the disk allows while nobody else uses it", "larder scrub db --rate 0"),
        ],
    ),
    (
        "larder-status",
        &[
            ("Only what is wrong, for a script: the exit status is 14 then", "larder status -x"),
            ("Acknowledge what was reported, once it has been dealt with", "larder status --acknowledge db"),
        ],
    ),
    (
        "larder-find",
        &[
            ("Which file has a damaged block that a message names", "larder find db --block 17:2043"),
            ("Which file has an inode number", "larder find db --inode 4711"),
        ],
    ),
    (
        "larder-config",
        &[("A file, before it is put in place", "larder config check larder.toml\nlarder config show")],
    ),
    ("larder-config-check", &[("A file, before it is put in place", "larder config check larder.toml")]),
    ("larder-config-show", &[("What is in force", "larder config show")]),
    (
        "larder-key",
        &[(
            "A second secret, for the backup",
            "larder key add db --key-file /etc/larder/db.key --new-key-file /root/backup.key",
        )],
    ),
    ("larder-key-list", &[("What opens the volume, by numbers of slots", "larder key list db")]),
    (
        "larder-key-add",
        &[
            (
                "A second secret, for the backup",
                "larder key add db --key-file /etc/larder/db.key --new-key-file /root/backup.key",
            ),
            (
                "A key to write down, for the day when all others are lost",
                "larder key add db --key-file /etc/larder/db.key --recovery-key",
            ),
        ],
    ),
    (
        "larder-key-rm",
        &[(
            "Remove the secret in slot 1; to do that, give another one",
            "larder key rm db 1 --key-file /etc/larder/db.key",
        )],
    ),
    (
        "larder-key-rotate",
        &[(
            "Another key file from now on",
            "larder key rotate db --key-file /etc/larder/db.key --new-key-file /etc/larder/db-2027.key",
        )],
    ),
    (
        "larder-key-reencrypt",
        &[(
            "After somebody may have seen the old key and the disk",
            "larder key reencrypt db --key-file /etc/larder/db.key --new-master-key",
        )],
    ),
    (
        "larder-attach",
        &[
            ("On the new host, when the old one has let go of it", "larder attach s3://backups/larder/db"),
            ("When the old one is lost", "larder attach --steal s3://backups/larder/db"),
            (
                "As it was an hour ago, beside the one that is used",
                "larder attach s3://backups/larder/db db-before --at 1h",
            ),
            (
                "Where the disk is smaller than the volume",
                "larder attach s3://backups/larder/db --local-size 20G",
            ),
            ("With a longer history than it had", "larder attach s3://backups/larder/db --history 30d"),
        ],
    ),
    ("larder-detach", &[("Once it is unmounted: another host attaches it then", "larder detach db")]),
    (
        "larder-remote-add",
        &[
            ("Everything in the volume db in S3, too", "larder remote add db s3://backups/larder/db"),
            (
                "With a name from /etc/larder/remotes.toml, a minute behind",
                "larder remote add db offsite --ship 60",
            ),
            (
                "What programs have synced is there, whatever becomes of this host",
                "larder remote add db offsite --durability remote",
            ),
        ],
    ),
    (
        "larder-remote",
        &[("Everything in the volume db in S3, too", "larder remote add db s3://backups/larder/db")],
    ),
    ("larder-remote-ls", &[("What is there, and whose it is", "larder remote ls s3://backups/larder")]),
    (
        "larder-remote-check",
        &[
            ("Whether an attach would find all it needs", "larder remote check db"),
            (
                "The same on any host, and whether all blocks are sound",
                "larder remote check s3://backups/larder/db --read-data",
            ),
        ],
    ),
    ("larder-remote-status", &[("How far behind it is", "larder remote status db")]),
    ("larder-remote-sync", &[("Before the host is shut down", "larder remote sync db")]),
    (
        "larder-remote-history",
        &[
            ("What can be attached of a volume that is here", "larder remote history db"),
            (
                "The same for a volume that is only in the object store",
                "larder remote history s3://backups/larder/db --all",
            ),
        ],
    ),
    (
        "larder-remote-rm",
        &[
            ("What no host has any more", "larder remote rm s3://backups/larder/db"),
            (
                "What belongs to a host that is lost, in a script",
                "larder remote rm --force --steal s3://backups/larder/db",
            ),
        ],
    ),
    (
        "larder-remote-accept-older",
        &[(
            "The object store was restored from a copy; what is here is shipped there anew",
            "larder umount db\nlarder remote accept-older db\nlarder remote sync db",
        )],
    ),
    ("larder-remote-detach", &[("Stop shipping a volume", "larder remote detach db")]),
    (
        "larder-upgrade",
        &[
            ("After a newer version was installed by hand", "larder upgrade"),
            ("Back to the version before", "larder upgrade db --program /root/larder-before"),
        ],
    ),
    (
        "larder-plugin",
        &[
            (
                "As the package has it: when an engine first asks",
                "systemctl enable --now larder-plugin.socket",
            ),
            ("Without systemd", "larder plugin"),
            (
                "A volume for a container",
                "docker volume create -d larder -o size=10G db\ndocker run -d -v db:/var/lib/postgresql/data -e POSTGRES_PASSWORD=change-me postgres",
            ),
        ],
    ),
    (
        "larder-completions",
        &[(
            "For all users of bash",
            "larder completions bash > /usr/share/bash-completion/completions/larder",
        )],
    ),
];
