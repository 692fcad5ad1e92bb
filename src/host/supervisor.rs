//! Keeps the delivery process running.
//!
//! A host ends with any of the processes that it forked itself. So the one that it forks for us
//! does next to nothing, which can hardly fail, and forks another for the work: that one may be
//! killed, run out of memory or abort, and is started again.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::guard;
use crate::declaration::DELIVERY_PROCESS;
use crate::stats::{self, Counter};

/// Pause before a delivery process that ended is started again; doubled each time.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause: by then it is a lasting trouble, and each attempt is a line in the log.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A delivery process that ran so long has no part in the trouble before: the next pause is short again.
const QUIET: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM. It delivers for up to 2 s more; the next server waits
/// 5 s for the journal, whose lock it shares.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Runs `body` in a process of its own, again and again, until SIGTERM comes or the host's main
/// process ends; SIGTERM is passed on, and the end of the other awaited. Call it in a process that
/// runs nothing of the host any more.
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
        // Whoever stops all processes at once means this.
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

/// Lets SIGTERM, which is blocked in a process that [`keep_running`] made, come to `handler`.
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
                // It must not outlive the supervisor, which may have ended before this was said: the
                // server that is started next needs the journal.
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

/// How a delivery process ended that was not told to.
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
    /// The time is over.
    Time,
}

/// The signals that tell of events. They stay blocked and are fetched, so that none comes between
/// two steps.
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
            // The host's handlers would not run while they are blocked, but the child inherits them.
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            // When the server dies without a word, nobody would stop us.
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

    /// Ends the child: it may finish what it is at, but not for ever.
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

/// Takes note of the child's end; its status, or `None` while it runs.
fn reaped(child: libc::pid_t, flags: c_int) -> Option<c_int> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    (unsafe { libc::waitpid(child, &raw mut status, flags) } == child).then_some(status)
}
