//! Doors for the fuzzer (`fuzz/`) to what reads bytes and is private. Only built with the feature `fuzzing`.

/// A list of freed runs, as in the table `freed`.
pub fn freed_runs(bytes: &[u8]) {
    if let Some(runs) = crate::meta::fuzzed_freed_runs(bytes) {
        assert!(runs.len() <= bytes.len());
        assert!(runs.iter().all(|run| run.count > 0 && run.end_index() <= crate::store::SEGMENT_BLOCKS));
    }
}

/// A text of `sqlite_schema`.
pub fn schema(bytes: &[u8]) {
    crate::meta::fuzzed_schema(&String::from_utf8_lossy(bytes));
}

/// Bytes that a client sends to the control socket, up to its end of the connection.
pub fn control(bytes: &[u8]) {
    crate::server::fuzzed_control(bytes);
}

/// What a container engine sends to the plugin: the first byte chooses the method.
pub fn plugin(bytes: &[u8]) {
    crate::plugin::fuzzed_call(bytes);
}

/// A message of the kernel's, as `/dev/fuse` delivers it.
pub fn fuse_request(bytes: &[u8]) {
    crate::fuse::fuzzed_request(bytes);
}
