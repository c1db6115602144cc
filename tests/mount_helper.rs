//! mount_helper
