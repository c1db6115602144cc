//! The memory of the host: whether there is enough, and giving back what this process does not use.

mod pressure;
mod stack;

pub use pressure::{Memory, Squeeze};

/// Lets the threads of this process, of which there is one yet, share arenas of the allocator: one for two CPUs. By itself, it has one for
/// nearly each thread, and each keeps pages that nobody uses; what is freed at the end of those that are not the first is never given back.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(cpus / 2).unwrap_or(i32::MAX).max(1);
        #[expect(unsafe_code, reason = "libc only declares it")]
        // SAFETY: the option takes one int.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

/// Gives back what was freed, which the allocator would keep for the next time, and what calls that are over have used of the main thread's
/// stack, if it is that one which asks.
pub fn give_back() {
    // First: to find out where the stack is takes some memory.
    stack::give_back();
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "libc only declares it")]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
