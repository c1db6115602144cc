//! The stack of the main thread: what deep calls have used of it stays in memory for as long as the process lives. Reading a command line takes
//! a hundred KiB, and a process that rests needs ten.

use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::ops::Range;

/// What may be in use below the frame of whoever asks, in bytes.
const IN_USE: usize = 16 << 10;

/// Gives back the pages below what is in use of the stack of this thread, if it is the main one.
#[inline(never)]
pub(super) fn give_back() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let Some(stack) = stack_in(&maps) else { return };
    let here = 0u8;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| usize::try_from(bytes).ok());
    let Some(unused) = page.and_then(|page| unused(&stack, std::ptr::from_ref(&here) as usize, page)) else {
        return;
    };
    #[expect(unsafe_code, reason = "these addresses are nobody's")]
    // SAFETY: the pages are of the stack of this very thread, far below the frame of this function, so that nothing is in them. (What a signal
    // needs comes and goes in between.) They are filled with zeros when they are next used.
    unsafe {
        libc::madvise(unused.start as *mut libc::c_void, unused.len(), libc::MADV_DONTNEED);
    }
}

/// Where the stack of the main thread is, by what proc(5) shows of a process.
fn stack_in(maps: &str) -> Option<Range<usize>> {
    let line = maps.lines().find(|line| line.ends_with(" [stack]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// The pages that are not in use of a stack that is used from `here` on; none if that is another one, or there are none.
fn unused(stack: &Range<usize>, here: usize, page: usize) -> Option<Range<usize>> {
    let end = here.checked_sub(IN_USE)?.checked_div(page)? * page;
    (stack.contains(&here) && stack.start < end).then_some(stack.start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "55f27b957000-55f27b9e0000 rw-p 00000000 00:00 0                          [heap]\n\
                        7fff5df0a000-7fff5df2b000 rw-p 00000000 00:00 0                          [stack]\n\
                        7fff5df7c000-7fff5df80000 r--p 00000000 00:00 0                          [vvar]\n";

    #[test]
    fn what_is_given_back_is_far_below_what_is_in_use_and_of_this_stack() {
        let stack = stack_in(MAPS).unwrap();
        assert_eq!(stack, 0x7fff_5df0_a000..0x7fff_5df2_b000);
        let unused = |stack: &Range<usize>, here| unused(stack, here, 4096);
        let below = unused(&stack, 0x7fff_5df2_9123).unwrap();
        assert_eq!(below, 0x7fff_5df0_a000..0x7fff_5df2_5000);
        assert!(below.end + IN_USE <= 0x7fff_5df2_9123);
        // Little is left, or it is another thread's.
        assert_eq!(unused(&stack, stack.start + IN_USE), None);
        assert_eq!(unused(&stack, stack.end), None);
        assert_eq!(unused(&stack, 0x7f00_0000_0000), None);
        assert_eq!((stack_in("nonsense [stack]"), stack_in("")), (None, None));
    }

    /// Whoever has gone deep before goes on.
    #[test]
    fn a_thread_goes_on_after_it() {
        fn deep(n: u64) -> u64 {
            let kept = std::hint::black_box([n; 512]);
            if n == 0 { 0 } else { deep(n - 1) + kept[(n % 512) as usize] }
        }
        let sum = deep(50);
        give_back();
        assert_eq!(deep(50), sum);
    }
}
