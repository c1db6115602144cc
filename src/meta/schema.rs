//! The tables of `meta.db`: every table, column and sentinel, beside its DDL.

/// `PRAGMA user_version` of the schema below.
pub(super) const SCHEMA_VERSION: i64 = 2;
/// `PRAGMA application_id`: "LRDR".
pub(super) const APPLICATION_ID: i64 = 0x4c52_4452;

/// The schema.
///
/// Rows of `inode`, `dentry`, `xattr` and `chunk` carry the generation they were written in as part of their key.
/// What a volume sees for a key is the newest row whose generation is on the volume's lineage (the path from its head
/// generation to the root of the tree). Generations are numbered in the order of their making, so an ancestor's
/// number is always smaller, and `gen DESC` in the keys puts the newest row first.
pub(super) const DDL: &str = "
-- One row: what the store is and what it hands out next.
CREATE TABLE store (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    id           BLOB NOT NULL,     -- 16 bytes, as in header.json
    name_key     BLOB NOT NULL,     -- 16 random bytes: the SipHash-2-4 key of dentry.hash
    next_ino     INTEGER NOT NULL,  -- lowest inode number never used; 1 is the root of every volume
    next_segment INTEGER NOT NULL,  -- segment ids below this are reserved: a reopened store starts here
    next_gen     INTEGER NOT NULL,  -- lowest generation never used
    next_volume  INTEGER NOT NULL,  -- lowest volume id never used
    epoch        INTEGER NOT NULL   -- of the redo log: the first that this commit does not contain
) STRICT;

-- The tree of generations.
CREATE TABLE generation (
    gen     INTEGER PRIMARY KEY,    -- from 1 on
    parent  INTEGER NOT NULL,       -- 0: the root of the tree
    created INTEGER NOT NULL,       -- seconds since 1970
    merged  INTEGER NOT NULL        -- 1: no volume and no snapshot has it as its head, and it has become one with its
                                    -- only child: no row of it is hidden there
) STRICT;

-- Volumes of this family.
CREATE TABLE volume (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    head        INTEGER NOT NULL,   -- the generation that is written to
    size_limit  INTEGER,            -- bytes, a multiple of 4096; NULL: none
    inode_limit INTEGER,            -- inodes, the root included; NULL: none
    used_blocks INTEGER NOT NULL,   -- sum of inode.blocks over the volume's inodes
    used_inodes INTEGER NOT NULL,   -- number of the volume's inodes: root and orphans included
    created     INTEGER NOT NULL,   -- seconds since 1970
    meta_limit  INTEGER,            -- bytes of metadata, as docs/format.md counts them; NULL: none
    used_meta   INTEGER NOT NULL DEFAULT 0  -- bytes of metadata; 0: not counted yet
) STRICT;

-- Snapshots. Their ids come from next_volume too, and label and orphan name them like volumes.
CREATE TABLE snapshot (
    id          INTEGER PRIMARY KEY,
    volume      INTEGER NOT NULL,
    name        TEXT NOT NULL,
    gen         INTEGER NOT NULL,   -- the generation that it keeps
    used_blocks INTEGER NOT NULL,   -- as the volume's were
    used_inodes INTEGER NOT NULL,
    created     INTEGER NOT NULL,   -- seconds since 1970
    used_meta   INTEGER NOT NULL DEFAULT 0, -- 0: not counted yet
    UNIQUE (volume, name)
) STRICT;

CREATE TABLE label (
    volume INTEGER NOT NULL,        -- or a snapshot
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (volume, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE inode (
    ino      INTEGER NOT NULL,
    gen      INTEGER NOT NULL,
    mode     INTEGER NOT NULL,      -- file type and permission bits, as st_mode; 0: removed in this generation
    nlink    INTEGER NOT NULL,      -- directories: 2 + subdirectories; 0: an orphan
    uid      INTEGER NOT NULL,
    gid      INTEGER NOT NULL,
    rdev     INTEGER NOT NULL,      -- devices only, Linux's 32-bit encoding
    size     INTEGER NOT NULL,      -- bytes; directories: number of entries
    blocks   INTEGER NOT NULL,      -- 4 KiB blocks allocated, reserved ones included
    atime    INTEGER NOT NULL, atime_ns INTEGER NOT NULL,   -- seconds since 1970 and nanoseconds 0..10^9
    mtime    INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime    INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    btime    INTEGER NOT NULL, btime_ns INTEGER NOT NULL,   -- birth
    parent   INTEGER NOT NULL,      -- directories: the directory they are in, the root's is itself; others: the one
                                    -- that they were last made in or moved to, where one of their names probably is
    xattrs   INTEGER NOT NULL,      -- 1: has extended attributes; 2: security.capability among them;
                                    -- 4: an access ACL; 8: a default ACL; and flags of chattr(1): 16: immutable;
                                    -- 32: append-only; 64: not to be dumped; 128: no time of access
    target   BLOB,                  -- symbolic links only
    PRIMARY KEY (ino, gen DESC)
) STRICT, WITHOUT ROWID;

CREATE TABLE dentry (
    parent INTEGER NOT NULL,        -- inode of the directory
    hash   INTEGER NOT NULL,        -- SipHash-2-4 of the name, 63 bits, at least 3: the readdir cookie
    name   BLOB NOT NULL,           -- 1 to 255 bytes, without '/' and NUL
    gen    INTEGER NOT NULL,
    ino    INTEGER NOT NULL,        -- 0: removed in this generation
    kind   INTEGER NOT NULL,        -- file type of the inode: st_mode >> 12
    PRIMARY KEY (parent, hash, name, gen DESC)
) STRICT, WITHOUT ROWID;

CREATE TABLE xattr (
    ino   INTEGER NOT NULL,
    name  BLOB NOT NULL,            -- with its namespace, 1 to 255 bytes
    gen   INTEGER NOT NULL,
    value BLOB,                     -- up to 65536 bytes; NULL: removed in this generation
    PRIMARY KEY (ino, name, gen DESC)
) STRICT, WITHOUT ROWID;

CREATE TABLE chunk (
    ino INTEGER NOT NULL,
    idx INTEGER NOT NULL,           -- the chunk holds bytes idx * 1 MiB up to (idx + 1) * 1 MiB of the file
    gen INTEGER NOT NULL,
    map BLOB NOT NULL,              -- the extents, see docs/format.md; without any, the chunk is a hole
    PRIMARY KEY (ino, idx, gen DESC)
) STRICT, WITHOUT ROWID;

-- Rows of generations after the first, to be found when such a generation goes. (A store that never had a snapshot
-- has nothing in them.)
CREATE INDEX inode_of_gen ON inode (gen) WHERE gen > 1;
CREATE INDEX dentry_of_gen ON dentry (gen) WHERE gen > 1;
CREATE INDEX xattr_of_gen ON xattr (gen) WHERE gen > 1;
CREATE INDEX chunk_of_gen ON chunk (gen) WHERE gen > 1;

-- Rows of generations that several see, and that newer rows hide, or hid, from some of them.
CREATE TABLE shadow (
    old  INTEGER NOT NULL,          -- generation of the hidden row
    kind INTEGER NOT NULL,          -- its table: 1 inode, 2 dentry, 3 xattr, 4 chunk
    ino  INTEGER NOT NULL,          -- dentry: of the directory
    rest BLOB NOT NULL,             -- dentry: hash (8 bytes, big-endian) and name; xattr: name; chunk: idx (8 bytes,
                                    -- big-endian)
    PRIMARY KEY (old, kind, ino, rest)
) STRICT, WITHOUT ROWID;

-- Inodes without a name that were still open at the last commit. Reaped at the next open.
CREATE TABLE orphan (
    volume INTEGER NOT NULL,        -- or a snapshot, which keeps those there were when it was made
    ino    INTEGER NOT NULL,
    PRIMARY KEY (volume, ino)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment (
    id   INTEGER PRIMARY KEY,
    live INTEGER NOT NULL,          -- blocks that something refers to
    tail INTEGER NOT NULL,          -- index behind the last block allocated; later ones never became part of a commit
    full INTEGER NOT NULL           -- 1: no block will be added
) STRICT;

-- Blocks that more than one place refers to. Ranges do not overlap; a live block in no range has one reference.
CREATE TABLE share (
    segment INTEGER NOT NULL,
    first   INTEGER NOT NULL,       -- first block index
    count   INTEGER NOT NULL,       -- blocks
    refs    INTEGER NOT NULL,       -- references, at least 2
    PRIMARY KEY (segment, first)
) STRICT, WITHOUT ROWID;

-- Freed blocks that may not have been punched out yet: some rows a commit.
CREATE TABLE freed (
    id   INTEGER PRIMARY KEY,
    runs BLOB NOT NULL              -- see docs/format.md
) STRICT;
";
