//! What storms rage on: a mount, or the file system itself.

/// Why something did not work, as far as storms tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    NotFound,
    Exists,
    NoSpace,
    Other(String),
}

pub type Result<T> = std::result::Result<T, Failure>;

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub nlink: u64,
    pub size: u64,
    /// Allocated blocks of 4 KiB.
    pub blocks: u64,
}

/// What the volume says of itself: used blocks and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub blocks: u64,
    pub inodes: u64,
}

/// Paths are relative to the root of the volume: a name, or a directory and a name.
pub trait Ground: Sync {
    type File: Sync + Send;

    fn make_dir(&self, path: &str) -> Result<()>;
    fn create(&self, path: &str) -> Result<Self::File>;
    fn open(&self, path: &str) -> Result<Self::File>;
    /// To be called for every file that was created or opened.
    fn close(&self, file: Self::File);
    fn write(&self, file: &Self::File, offset: u64, data: &[u8]) -> Result<()>;
    /// Up to `len` bytes: fewer at the end of the file.
    fn read(&self, file: &Self::File, offset: u64, len: usize) -> Result<Vec<u8>>;
    fn append(&self, file: &Self::File, data: &[u8]) -> Result<()>;
    fn truncate(&self, file: &Self::File, size: u64) -> Result<()>;
    /// Copies a range, whole or in part.
    fn copy(&self, from: (&Self::File, u64), to: (&Self::File, u64), len: u64) -> Result<()>;
    fn sync(&self, file: &Self::File) -> Result<()>;
    fn facts(&self, file: &Self::File) -> Facts;
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    fn exchange(&self, one: &str, two: &str) -> Result<()>;
    fn link(&self, path: &str, new: &str) -> Result<()>;
    fn unlink(&self, path: &str) -> Result<()>;
    /// Names in a directory, as one listing from start to end gives them, without the dots.
    fn list(&self, dir: &str) -> Vec<String>;
    fn used(&self) -> Used;
}

/// Numbers without a pattern, the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}
