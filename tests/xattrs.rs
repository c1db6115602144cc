//! xattrs
