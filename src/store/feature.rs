//! What a store can have that a program of an earlier version could not read.

/// A feature of the format. Its name is in the header of a store that has it, so that a program which lacks it refuses the store
/// by that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Everything is sealed with keys that the header holds.
    Encryption,
    /// What metadata takes is counted and can be limited: schema 2 of `meta.db`.
    MetadataLimits,
    /// Long reserved runs of files have a row for each 4 GiB: rows of kind 2 in the table `chunk`.
    ReservedRuns,
    /// Files can be made without a name and get one later, and a rename can leave a whiteout: mutations of the redo log.
    UnnamedFiles,
    /// Some inodes have flags, which forbid changes of them. A store gets it with the first flag.
    InodeFlags,
    /// Some snapshots are held: rows of `label` that are no labels, and who does not know them would remove the snapshot. A store gets it
    /// with the first hold.
    Holds,
    /// The store has a remote, and blocks may be there only: who does not know of it would take them for damaged, and would not ship.
    Remote,
    /// What is about to be shipped is noted in `remote.attempt`: who does not heed it would take its own records for somebody else's. A store gets
    /// it when it is first shipped.
    RemoteAttempts,
    /// What was needed stays in the remote for another time than usual, which the header says: who does not know of it would remove what
    /// is to stay.
    RemoteHistory,
}

impl Feature {
    /// All that this program knows.
    pub const ALL: [Self; 9] = [
        Self::Encryption,
        Self::MetadataLimits,
        Self::ReservedRuns,
        Self::UnnamedFiles,
        Self::InodeFlags,
        Self::Holds,
        Self::Remote,
        Self::RemoteAttempts,
        Self::RemoteHistory,
    ];

    /// Those that every store has which this program has opened for writing. An older store gets them then: in its header, after
    /// all of it was found to be usable, and before anything is written that an older program cannot read.
    pub const CURRENT: [Self; 3] = [Self::MetadataLimits, Self::ReservedRuns, Self::UnnamedFiles];

    /// Its name in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::MetadataLimits => "metadata-limits",
            Self::ReservedRuns => "reserved-runs",
            Self::UnnamedFiles => "unnamed-files",
            Self::InodeFlags => "inode-flags",
            Self::Holds => "holds",
            Self::Remote => "remote",
            Self::RemoteAttempts => "remote-attempts",
            Self::RemoteHistory => "remote-history",
        }
    }

    /// The feature of that name, if this program knows it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name() == name)
    }
}
