//! What each manual page shows: command lines that do something that people want, and what that is.

/// For the page of a command: what is done, and how.
pub(super) const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "larder",
        &[
            ("A volume of 10 GiB, mounted", "larder create db --size 10G\nlarder mount db /mnt/db"),
            ("What there is", "larder ls\nlarder df"),
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
    ("larder-snapshot-rm", &[("Several at once", "larder snapshot rm db@monday db@tuesday")]),
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
        ],
    ),
    (
        "larder-rm",
        &[
            ("Volumes and all their data", "larder rm db test"),
            ("One that is sticky", "larder rm --force db"),
        ],
    ),
    (
        "larder-prune",
        &[
            ("All that nobody has mounted and that has no labels; asks before", "larder prune"),
            ("Those of one application, without asking", "larder prune --force --filter label=app=shop"),
        ],
    ),
    (
        "larder-set",
        &[
            ("How containers get it from their next start on", "larder set db noatime=true cache-size=512M"),
            ("Protected from `docker compose down -v`", "larder set db sticky=true"),
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
        "larder-key",
        &[(
            "A second secret, for the backup",
            "larder key add db --key-file /etc/larder/db.key --new-key-file /root/backup.key",
        )],
    ),
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
