//! The progress of a long command: a bar on standard error, if that is a terminal.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

static SHOWN: AtomicBool = AtomicBool::new(true);

/// Whether there may be bars at all.
pub fn allow(shown: bool) {
    SHOWN.store(shown, Ordering::Relaxed);
}

/// A bar, which is removed when this is dropped.
pub struct Bar {
    #[cfg(feature = "progress")]
    bar: Option<indicatif::ProgressBar>,
}

impl Bar {
    /// A bar that counts bytes.
    pub fn bytes(total: u64) -> Bar {
        Bar::new(total, "{bar:40} {bytes}/{total_bytes} {eta}")
    }

    /// A bar that counts anything else.
    pub fn of(total: u64) -> Bar {
        Bar::new(total, "{bar:40} {human_pos}/{human_len} {eta}")
    }

    #[cfg(feature = "progress")]
    fn new(total: u64, template: &str) -> Bar {
        let style = indicatif::ProgressStyle::with_template(template).ok().filter(|_| SHOWN.load(Ordering::Relaxed));
        Bar { bar: style.map(|style| indicatif::ProgressBar::new(total).with_style(style)) }
    }

    #[cfg(not(feature = "progress"))]
    fn new(_: u64, _: &str) -> Bar {
        Bar {}
    }

    /// Sets how much is done.
    pub fn set(&self, done: u64) {
        #[cfg(feature = "progress")]
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        #[cfg(not(feature = "progress"))]
        let _ = done;
    }

    /// Sets how much there is in total.
    pub fn set_total(&self, total: u64) {
        #[cfg(feature = "progress")]
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
        #[cfg(not(feature = "progress"))]
        let _ = total;
    }
}

#[cfg(feature = "progress")]
impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
