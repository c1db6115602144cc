//! million
