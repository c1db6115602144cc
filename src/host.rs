//! The volumes of this host, whether a server has their store open or not: what the command line and the plugin have in common.

mod alter;
mod ask;
mod common;
mod containers;
mod create;
mod defaults;
mod detach;
mod durable;
mod ending;
mod engines;
mod footprint;
mod foreign;
mod health;
mod hold;
mod inspection;
mod keep;
mod leftover;
mod look;
mod mount;
mod options;
mod own_mounts;
mod owner;
mod policies;
mod record;
mod remote;
mod remote_end;
mod remove;
mod rename;
mod rollback;
mod scrub;
mod secret;
mod served_roots;
mod side_by_side;
mod survey;
pub mod trash;
mod unmount;
mod upgrade;
mod users;

pub use alter::{alter, alter_each, clone};
pub use ask::Question;
pub use common::{Common, Detail};
pub use containers::{Container, Containers};
pub use create::create;
pub use defaults::{checked, configuration, or_usual, usual_mount, usual_to_remember, usual_volume};
pub use detach::{Leaving, leave, leaving};
pub use durable::{read_json, write_json};
pub use ending::end_servers;
pub use engines::{
    Asking, DockerOfUnit, Restarting, docker_of_unit, restarting_of_docker, storage_of_podman,
};
pub use health::{HealthLooker, ShownReason, VolumeHealth, acknowledge, health_by, note_check};
pub use hold::{hold, release};
pub use inspection::{Inspection, Snapshot, time};
pub use keep::{Count, KeepRules, Labels, Verdict, Within};
pub use look::{Look, Looker, look, look_for, server_of, server_within, snapshots, store_of};
pub use mount::{
    Job, await_ending, cache_bytes, connect, ended_at_once, is_mounted_at, mount, mount_with, prepare,
    remount,
};
pub use options::{
    VolumeOptions, differences, format_history, parse_heartbeat, parse_history, parse_lag, parse_local,
    parse_ship,
};
pub use own_mounts::{dead_mounts, devices, is_there};
pub use owner::{group, user};
pub use policies::may_have_size;
pub use record::{Place, Record, memory_names, names, options_of, place, remembered_secrets, secrets_of};
pub use remote::{
    RemoteLook, ShownRemote, ShownUpload, alter_durability, alter_remote, begin_remote, end_remote,
    is_moment, may_alter_remote, must_have_remote, reencrypt_closed_store, remote_status, ship_keys,
    sync_remote,
};
pub use remote_end::{
    RemoteOf, must_own_remote, needs_objects, needs_remote, remote_of_volume, remove_remote,
};
pub use remove::{Removal, refuse_sticky, remove};
pub use rename::rename;
pub use rollback::{Before, Stay, rollback};
pub use scrub::{ScrubJob, Scrubbed, Scrubbing, scrub};
pub use secret::{Known, Secrets, may_be_plain};
pub use side_by_side::each;
pub use survey::{Opening, Survey};
pub use unmount::{Unmounted, find, unmount};
pub use upgrade::{Upgraded, upgrade};
pub use users::{Use, Users, boot_id, users};
