//! Keeps the delivery process running.
//!
//! A host stops when any process that it has forked ends. So the one that it forks for us does next to
//! nothing, which can hardly fail, and forks another one for the work: that one may be killed, run out of
//! memory or abort, and is started again.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::guard;
use crate::declaration::DELIVERY_PROCESS;
use crate::stats::{self, Counter};

/// Pause before a delivery process that has ended is started again; doubled each time.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause: by then the problem is a lasting one, and each attempt is a line in the log.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After a delivery process has run this long, an earlier problem is over: the next pause is short again.
const QUIET: Duration = Duration::from_secs(60);
/// How long a delivery process may take to end after SIGTERM. It goes on delivering for up to 2 s; the next
/// server waits 5 s for the journal, whose lock this process shares.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Runs `body` in a process of its own, repeatedly, until SIGTERM comes or the host's main process ends.
/// Passes SIGTERM on, and waits for the end of that process. Call it in a process that runs nothing of the
/// host any more.
pub fn keep_running(body: impl Fn()) {
    let signals = Signals::take();
    let mut pause = RESTART_PAUSE;
    loop {
        let begun = Instant::now();
        let why = match start(&body) {
            Ok(child) => match signals.wait(Some(child), None) {
                Event::Ended(status) => describe(status),
                Event::Stop | Event::Time => return signals.stop(child),
            },
            Err(e) => format!("cannot be started: {e}"),
        };
        // SIGTERM was sent to all processes at once.
        if matches!(signals.wait(None, Some(Duration::ZERO)), Event::Stop) {
            return;
        }
        stats::add(Counter::DeliveryRestarts, 1);
        if begun.elapsed() > QUIET {
            pause = RESTART_PAUSE;
        }
        log::error!("the delivery process {why}; it is started again in {} ms, until then records wait in the journal", pause.as_millis());
        if matches!(signals.wait(None, Some(pause)), Event::Stop) {
            return;
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// Directs SIGTERM, which is blocked in a process that [`keep_running`] has made, to `handler`.
pub fn on_terminate(handler: extern "C" fn(c_int)) {
    // SAFETY: this process runs nothing of the host, so its signals are ours; the set lives through
    // the calls.
    unsafe {
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Forks the process that runs `body`. There SIGTERM is blocked until `body` takes it.
fn start(body: &impl Fn()) -> std::io::Result<libc::pid_t> {
    let supervisor = std::process::id();
    // SAFETY: this process has one thread, so that the child has all of its memory in a usable
    // state; the name is terminated. The child never returns, so nothing of the host runs in it,
    // not even its exit handlers.
    unsafe {
        match libc::fork() {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_NAME, DELIVERY_PROCESS.as_ptr());
                // It must not outlive the supervisor, which may have ended before this call: the next
                // server needs the journal.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid().cast_unsigned() == supervisor {
                    guard::entry("delivery process", (), body);
                }
                libc::_exit(0)
            }
            child => Ok(child),
        }
    }
}

/// How a delivery process ended that was not told to end.
fn describe(status: c_int) -> String {
    if libc::WIFSIGNALED(status) {
        format!("was ended by signal {}", libc::WTERMSIG(status))
    } else {
        format!("ended with status {}", libc::WEXITSTATUS(status))
    }
}

/// What the supervisor waits for.
enum Event {
    /// SIGTERM.
    Stop,
    /// The child, with this status.
    Ended(c_int),
    /// The time limit was reached.
    Time,
}

/// The signals that report events. They stay blocked and are fetched, so that none arrives between two
/// steps.
struct Signals(libc::sigset_t);

impl Signals {
    fn take() -> Signals {
        // SAFETY: this process runs nothing of the host any more, so its signals are ours; the set
        // lives through the calls.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            // The host's handlers do not run while the signals are blocked, but the child would inherit them.
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            // If the server dies suddenly, nobody else would stop us.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Signals(set)
        }
    }

    /// Waits for SIGTERM or the end of the child, at most for `limit`.
    fn wait(&self, child: Option<libc::pid_t>, limit: Option<Duration>) -> Event {
        let end = limit.map(|l| Instant::now() + l);
        loop {
            if let Some(status) = child.and_then(|c| reaped(c, libc::WNOHANG)) {
                return Event::Ended(status);
            }
            let left = end.map(|e| e.saturating_duration_since(Instant::now()));
            let time = left.map(|l| libc::timespec { tv_sec: l.as_secs() as libc::time_t, tv_nsec: l.subsec_nanos().into() });
            let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the set is valid, the time is valid or null, and no details are asked for.
            let signal = unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), time) };
            if signal == libc::SIGTERM {
                return Event::Stop;
            }
            if left.is_some_and(|l| l.is_zero()) {
                return Event::Time;
            }
        }
    }

    /// Ends the child: it may finish what it is doing, within a time limit.
    fn stop(&self, child: libc::pid_t) {
        let end = Instant::now() + STOP_LIMIT;
        // SAFETY: a child that was not waited for yet; its number belongs to nobody else.
        let send = |signal| unsafe { libc::kill(child, signal) };
        send(libc::SIGTERM);
        loop {
            match self.wait(Some(child), Some(end.saturating_duration_since(Instant::now()))) {
                Event::Ended(_) => return,
                Event::Stop => {}
                Event::Time => {
                    log::error!("the delivery process did not end within {} s: it is killed, its records wait in the journal", STOP_LIMIT.as_secs());
                    send(libc::SIGKILL);
                    reaped(child, 0);
                    return;
                }
            }
        }
    }
}

/// Collects the child; its status, or `None` while it is running.
fn reaped(child: libc::pid_t, flags: c_int) -> Option<c_int> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    (unsafe { libc::waitpid(child, &raw mut status, flags) } == child).then_some(status)
}
