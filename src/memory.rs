//! The memory of the host: whether there is enough, and giving back what this process does not use.

mod pressure;
mod stack;

pub use pressure::{Memory, Squeeze};

/// Gives back what was freed, which the allocator would keep for the next time, and what calls that are over have used of the main thread's
/// stack, if it is that one which asks.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "libc only declares it")]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    stack::give_back();
}
