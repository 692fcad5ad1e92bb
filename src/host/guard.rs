//! One guard around every entry point: a panic is logged with its place, counted, and answered
//! with the entry point's failure value. Unwinding into the host would abort the whole server.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use once_cell::sync::OnceCell;

use crate::stats::{self, Counter};

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the place of a panic for the log line instead of printing it; called once at load.
pub fn install_hook() {
    static ONCE: OnceCell<()> = OnceCell::new();
    ONCE.get_or_init(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(String::new, ToString::to_string);
            PLACE.with(|p| *p.borrow_mut() = place);
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Runs the body of the entry point `name`; after a panic the worker goes on, and the host gets
/// `failure`.
pub fn entry<R>(name: &'static str, failure: R, body: impl FnOnce() -> R) -> R {
    let body = || {
        #[cfg(feature = "fault-injection")]
        fault::hit(name);
        body()
    };
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(r) => r,
        Err(payload) => {
            caught(name, &*payload);
            failure
        }
    }
}

/// Counts and logs a panic.
#[cold]
#[inline(never)]
fn caught(name: &str, payload: &(dyn Any + Send)) {
    stats::add(Counter::Panics, 1);
    let place = PLACE.with(|p| p.borrow().clone());
    // Not even logging may unwind out of here.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        log::error!("panic in {name} at {place}: {} (this call to the module failed, the process goes on)", message(payload));
    }));
}

/// Lets tests make any entry point panic: `ACC_FAULT_PANIC=name`.
#[cfg(feature = "fault-injection")]
mod fault {
    use once_cell::sync::Lazy;

    static NAME: Lazy<Option<String>> = Lazy::new(|| std::env::var("ACC_FAULT_PANIC").ok());

    pub(super) fn hit(name: &str) {
        assert!(NAME.as_deref() != Some(name), "injected by ACC_FAULT_PANIC");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_failure_value_and_is_counted() {
        install_hook();
        let before = stats::get(Counter::Panics);
        assert_eq!(entry("test", -1, || panic!("deliberate")), -1);
        assert_eq!(entry("test", -1, || 7), 7);
        assert!(stats::get(Counter::Panics) > before);
        PLACE.with(|p| assert!(p.borrow().contains("guard.rs:")));
    }
}
