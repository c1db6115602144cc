//! What manual pages say of a command beside its summary: what somebody wants to know who has never used it. A paragraph each.

/// For the page of a command.
pub(super) const DESCRIPTIONS: &[(&str, &[&str])] = &[
    (
        "larder",
        &[
            "A volume is a file system with a name, exact limits and labels, which is mounted on the host and used by containers. A snapshot, VOLUME@SNAPSHOT, is a volume as it was at one instant; a clone is a volume that began as a copy of another. A volume, its snapshots and its clones are kept in one directory below the root, their store. While something of it is mounted, a process serves it, which mounting starts and unmounting ends.",
            "Names are made of letters, digits, '_', '.' and '-', and begin with a letter or a digit. Sizes are numbers of bytes, or written like 10G and 512MiB (powers of 1024) or 10GB (powers of 1000). Times are written like 90s, 12h or 30d.",
            "An ordinary user has a root of his own, and mounts with fusermount3(1).",
        ],
    ),
    (
        "larder-create",
        &[
            "A volume takes no space until something is written to it. Without --size it may grow until the disk of the host is full.",
            "With --encrypt, contents, names and everything else are encrypted; whoever loses all of its secrets loses the volume. Larder does not keep the secret: larder-set(1) can record which file it is in.",
        ],
    ),
    (
        "larder-clone",
        &[
            "A clone starts with what its source holds at this moment, whether that is mounted or not. It takes space only for what is changed afterwards, and does not depend on the source, which can be removed.",
        ],
    ),
    (
        "larder-snapshot-create",
        &[
            "A snapshot captures one instant, whatever programs write meanwhile: it holds what a power cut would leave, with everything that they had written. Snapshots of several volumes of one family that are made together capture the same instant. A snapshot takes no space until something is changed, and can be seen in .snapshots/SNAPSHOT at the root of the mounted volume.",
        ],
    ),
    (
        "larder-snapshot-ls",
        &[
            "USED is the space that would be freed if only this snapshot were removed; REFERENCED is the size of what it holds.",
        ],
    ),
    (
        "larder-snapshot-prune",
        &[
            "A snapshot stays if any of the rules keeps it; without a rule, nothing is removed. Held snapshots stay in any case. The command does not ask: --dry-run shows what it would do.",
        ],
    ),
    (
        "larder-rollback",
        &[
            "The volume must not be mounted, unless --live is given. What it was before is kept as a snapshot, whose name is printed, for as long as a removed volume would be: for 24 hours, or as larder.toml or the option trash of the volume says; less if the host gets short of room. With trash=0 nothing is kept, and on a terminal it asks first. To keep it, rename or hold that snapshot.",
        ],
    ),
    (
        "larder-hold",
        &[
            "A snapshot that is held cannot be removed by anybody, and neither can its volume. It can have several holds, each with a TAG; larder-release(1) releases one of them.",
        ],
    ),
    (
        "larder-resize",
        &[
            "Give at least one of the limits. A limit cannot be made smaller than what is used. It takes effect at once, even for programs that are writing.",
        ],
    ),
    (
        "larder-ls",
        &[
            "USED is what the files of a volume occupy, USED ON DISK what its whole family does on the disk of the host. A question mark stands for what is not known, such as the contents of an encrypted volume that nobody has opened. A mountpoint followed by (dead) has lost its server: unmount it and mount it again.",
        ],
    ),
    (
        "larder-mount",
        &[
            "Without -o, a volume is mounted as larder-set(1) and larder.toml say. There is one mount of a volume; mount --bind shows it in other places too. If its server dies, another one takes over, and programs notice a pause (Linux 6.9 or later).",
            "For volumes that are to be mounted at boot there are fstab(5) and the unit larder@NAME.service, which mounts volume NAME on /mnt/larder/NAME.",
        ],
    ),
    (
        "larder-umount",
        &[
            "A volume that programs use cannot be unmounted: fuser -vm DIR lists them. With --lazy, the mount disappears from its place at once, and ends with the last of them. With --all --force, all servers of the root end, after they have written everything that programs had given them.",
        ],
    ),
    (
        "larder-rm",
        &[
            "On a terminal, the command shows what would be removed, and asks. What is removed stays in the trash for 24 hours, or as long as larder.toml or the volume itself says, with its snapshots: larder-trash(1) brings it back. Volumes that are mounted, that are sticky, or that have snapshots that are held are not removed.",
            "What was shipped of a store stays when its last volume goes, unless --remove-remote is given, or somebody who is asked says so; then it goes once the volume is gone for good. A host that is not the owner of the remote any more cannot remove it.",
        ],
    ),
    (
        "larder-trash",
        &[
            "Removed volumes are kept for as long as their own option trash or larder.toml says, or else for 24 hours. They are removed for good before that when the disk of the host runs short of space.",
        ],
    ),
    (
        "larder-prune",
        &[
            "What a container was made with is kept, also while the container is stopped, and also with --force. Docker Engine and Podman are asked which volumes that are: those of whoever gives the command and of the user that the root belongs to, and not the rootless ones of other users, which have roots of their own. Each may take 20 seconds. Nothing is removed while one that may have containers does not say which: it does not answer, or is stopped and has containers on the disk (where it usually has them, or where daemon.json, storage.conf, units, /etc/default/docker and command lines say; where these, or a link, say so and nothing is there, a disk may not be mounted). The error says what to do about each. Where nothing of that helps, --ignore-silent-engines uses only what is known: volumes that only stopped containers of such an engine need are then not kept. As the question on the terminal may wait for its answer for long, engines are asked once more after it. What is removed goes to the trash; larder-trash(1) brings it back.",
        ],
    ),
    (
        "larder-get",
        &[
            "For each option, its value and where that comes from: the volume, larder.toml, or the built-in default.",
        ],
    ),
    (
        "larder-set",
        &[
            "Limits, labels, ship, max-lag, history, local-size and durability change at once, lease and heartbeat while no volume of the family is mounted; other options take effect at the next mount. Options have the names that docker volume create uses; mount options are listed below, and those without a value are written as NAME=true or NAME=false.",
        ],
    ),
    (
        "larder-check",
        &[
            "Without --read-data, the command checks the metadata: whether everything fits together, and every count is right. With it, every block is read, too. A volume can be checked while it is used. Nothing is repaired: what is found is damage to the disk, or a fault of the program.",
        ],
    ),
    (
        "larder-scrub",
        &[
            "Every block of the volumes and of their families is read, at the lowest priority. Damage is noted, and larder-status(1) reports it until the data can be read again, were removed, or the report is acknowledged. Every day, larder-scrub.timer scrubs the volumes that were last read 30 days ago or more.",
        ],
    ),
    (
        "larder-status",
        &[
            "For each volume: ok, degraded (something is lost, or not as it should be) or failed (it cannot be used, or accepts no changes), with the reasons, since when, and what to do.",
        ],
    ),
    (
        "larder-key",
        &[
            "Each secret of an encrypted volume has a key slot, whose number larder key list shows. Any of them opens the volume. To add or remove one, you need another.",
        ],
    ),
    (
        "larder-attach",
        &[
            "What another host has shipped is here at once: the metadata come now, contents when they are read. From then on this host is the owner of the remote, and ships what is written here. All volumes of the store there come, with their snapshots.",
            "With --at, it is there as it was at that moment, to be read, and nothing is claimed: the host that has it goes on. larder-remote-detach(1) fetches all of it and makes it a volume like others. What leaves the history of the remote (history=) before that is lost to it.",
            "With --read-only, it is there as it was last shipped, to be read.",
            "A remote that has an owner is not attached: unmount the volume there first. --steal takes it from a host that is lost. A host that is not may go on serving what it had until it finds out.",
        ],
    ),
    (
        "larder-detach",
        &[
            "What the remote has not got yet is shipped, the remote is released for other hosts, and only then the store is removed from this host, with all its volumes and their snapshots. Nothing is removed if the remote cannot be reached, or if one of the volumes is mounted.",
        ],
    ),
    (
        "larder-remote-add",
        &[
            "What is in the store is shipped in the background, and after that, whatever changes is shipped every few seconds; larder-remote-status(1) says how far behind the remote is. A volume that is mounted stays so: its server hands over to another one, as with larder-upgrade(1).",
            "With --durability remote, when an fsync(2) returns, its data is in the remote; while the remote cannot be reached, fsync waits. With --max-lag, programs that write are slowed when the remote lacks nearly that much, and wait while it lacks more; none fails, and one that is killed does not wait. With --local-size, when the contents take more space here than that, those that the remote has as well are removed from this host, the least recently used first, and fetched again when they are read. With --history, each state that was the newest within that time can be attached. With --lease strict, the volume answers nothing, and programs wait, while this host cannot show life in the remote, and another one may attach it when it has shown none for half a minute: two hosts never serve it at once. larder-set(1) changes all of these, and --ship, as durability=, max-lag=, history=, local-size=, lease=, heartbeat= and ship=.",
        ],
    ),
    (
        "larder-remote-accept-older",
        &[
            "A remote that has gone back in time, because it was restored from an older copy, say, is refused: nothing is shipped over it by itself. After this command, what is there now counts as what is to be there, and all that is here and is not there is shipped, from when the volume is mounted, or by larder-remote-sync(1). What was only in the remote, and is not there any more, is lost.",
            "The volume must not be mounted. If another host shows life there, or the remote has not gone back, nothing changes. Neither does it if another host has written what the remote has now: it may have gone on with the volume since the remote went back, and that would be in no volume any more. Then either remove what is here with larder-rm(1) and --keep-remote, and attach the volume anew, or give up what that host wrote with --discard.",
        ],
    ),
    (
        "larder-remote-history",
        &[
            "Each record of the remote is a moment of the volume that larder-attach(1) can bring with --at, in the order in which they were written, with the time by the clock of the host that wrote it. How far back they go is what history= says of the volume (larder-set(1)).",
            "If the store is encrypted, its secret is needed to read them.",
        ],
    ),
    (
        "larder-remote-rm",
        &[
            "All that was shipped of a store goes, with every moment of its history. It is refused while a host has not let go of the store, and while a volume of this host is shipped there or has a part of it only there. With --steal, it is looked for half a minute whether that host shows life. A removal that was interrupted goes on when it is given again.",
        ],
    ),
    ("larder-remote-status", &["It exits with 1 if something keeps the volume from being shipped."]),
    (
        "larder-remote-detach",
        &["If the volume was attached here, whatever is only in the remote is fetched first."],
    ),
    (
        "larder-upgrade",
        &[
            "Programs notice a pause of a few milliseconds, and keep their open files, locks and connections. Where that is impossible (kernels before Linux 6.9, transport=uring, transport=fuser), the old version goes on, and the command says so. It upgrades the volumes of one root: give --root for others.",
        ],
    ),
    (
        "larder-plugin",
        &[
            "Containers get their volumes mounted below mnt in the root, for as long as one of them uses them. Mounted volumes have processes of their own, which live on when this one ends: it can be restarted at any time. One driver serves a root.",
        ],
    ),
];
