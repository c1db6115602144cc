//! What the fuzz targets do with their input. Each `run` takes any bytes and must return: bytes from disk never panic,
//! and are never taken for what they are not.
//!
//! The fuzzer calls these through `fuzz_targets/`; `tests/fuzz.rs` includes this file and feeds them bytes of its own,
//! so that they keep compiling and running without the fuzzer.

pub mod chunk_map;
pub mod database;
pub mod encrypted;
pub mod header;
pub mod memory;
pub mod printable;
pub mod remote;
pub mod seal_page;
pub mod segment_header;

/// Takes an input apart, byte by byte; zeros when it is used up.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn number(&mut self, bytes: usize) -> u64 {
        self.bytes(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The next `count` bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// Changes bytes here and there; returns where.
    pub fn edit(&mut self, bytes: &mut [u8]) -> Vec<usize> {
        let mut edited = Vec::new();
        while !self.is_empty() && !bytes.is_empty() {
            let at = self.number(3) as usize % bytes.len();
            let value = self.byte();
            if bytes[at] != value {
                bytes[at] = value;
                edited.push(at);
            }
        }
        edited
    }
}
