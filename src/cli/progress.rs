//! Progress bars, on a terminal, for what takes longer than a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A bar that appears after a second.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { bar: ProgressBar::hidden(), started: Instant::now(), shown: !std::io::stderr().is_terminal() }
    }

    /// `done` of `total` units of `phase` are done; a total of 0 is not known.
    pub(super) fn update(&mut self, phase: &str, done: u64, total: u64) {
        if !self.shown && self.started.elapsed() >= Duration::from_secs(1) {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let template = if total > 0 {
            "{msg:12} {wide_bar} {human_pos}/{human_len}"
        } else {
            "{msg:12} {spinner} {human_pos}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(phase.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
