//! What can be done with volumes from outside: make, clone, snapshot, remove, look at, check.

mod attached_names;
pub mod check;
mod clone;
mod create;
mod diff;
mod error;
mod family;
pub(crate) mod find;
mod info;
mod keys;
mod leave;
mod limits;
mod moment;
mod new_remote;
mod offline;
mod older;
mod reencrypt;
mod remote;
mod remote_keys;
mod remove;
mod rename;
mod scrub;
mod selection;
mod target;
mod trash;
mod unfinished;
mod whole;

pub use clone::{clone_volume, has_relatives, remove_bare_names, remove_shared, remove_shared_trashed};
pub use create::{VolumeSpec, create, create_encrypted};
pub use diff::{Difference, diff};
pub use error::{Result, VolumeError};
pub use family::{Alteration, Altered, alter, held, snapshot_row};
pub use find::{Found, FoundFiles, Naming, Sought, find, not_found, overlaps, paths, volumes_with};
pub use info::{
    RootDir, SnapshotInfo, VolumeInfo, held_snapshot, info_from_meta, inspect_locked, inspect_offline,
    made_at, read_info, snapshots_of,
};
pub use keys::{
    add_key, is_encrypted, key_slots, may_have_holds, new_recovery_key, remove_key, rotate_key, unlock,
    unlock_keys,
};
pub use leave::{leave_to_remote, must_not_be_in_trash, names_in};
pub use limits::{LimitChange, LimitChanges, usual_inodes, usual_metadata};
pub use moment::{MomentSpec, attach_at, is_moment, must_not_be_moment, parse_at};
pub use new_remote::NewRemote;
pub use offline::{Rest, alter_each_offline, alter_offline, check_offline, lock_store};
pub use older::{OfOthers, Older, accept_older};
pub use reencrypt::{
    Begun, KeyEpochs, ReencryptionInfo, begin_reencryption, begin_reencryption_in, key_epochs, reencrypt,
    reencrypt_offline,
};
pub use remote::{
    AttachSpec, Attaching, Tuning, add_remote, attach, forget_remote, keep_history, objects_at, remote_of,
    tune_remote,
};
pub use remote_keys::open_log;
pub use remove::{Removed, nameless, remove, remove_trashed};
pub use rename::rename_volume;
pub use scrub::{Pace, scrub_offline};
pub use selection::Selection;
pub use target::{Target, check_tag};
pub use trash::{Served, put_away, put_back, put_back_for};
pub use whole::make_whole;
