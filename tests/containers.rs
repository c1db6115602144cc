//! Volumes in containers: bound by hand and through the volume driver, in Docker Engine and in Podman; and the packages that
//! bring them there.
//!
//! `scripts/test` installs what they need: docker.io, docker-compose, podman, uidmap, fuse3, busybox-static, systemd, PostgreSQL. No engine of
//! the host is touched: see `machine`.

mod boots;
mod by_hand;
mod chapters;
mod compose;
mod docker;
mod engine;
mod guides;
mod images;
mod machine;
mod managed;
mod nested;
mod packaging;
mod podman;
mod postgres;
mod restarts;
mod rootless;
mod units;
