//! Process ids: of this process, and of one that may have been killed while it held a lock.

use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::sync::OnceCell;

use crate::interprocess::{Lock, Locked};

/// Id of this process, 0 = not asked for yet.
static ID: AtomicU32 = AtomicU32::new(0);

/// Id of this process. The system is asked only once in each process: every lock and every append needs
/// it, and the system call would cost more than they do.
pub fn id() -> u32 {
    match ID.load(Ordering::Relaxed) {
        0 => ask_id(),
        id => id,
    }
}

#[cold]
fn ask_id() -> u32 {
    static FORGOTTEN_AT_FORK: OnceCell<bool> = OnceCell::new();
    // SAFETY: the handler only stores a number, which is allowed in a child of any process; the C
    // library forgets it when this object is unloaded.
    let forgotten = *FORGOTTEN_AT_FORK.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(forget_id)) } == 0);
    let id = std::process::id();
    // Kept only from now on, because processes that are forked from here on will ask again.
    if forgotten {
        ID.store(id, Ordering::Relaxed);
    }
    id
}

/// Runs in a child, before fork() returns there.
unsafe extern "C" fn forget_id() {
    ID.store(0, Ordering::Relaxed);
}

/// Takes a lock of the arena, if need be from a process that was killed.
pub(super) fn locked(lock: &Lock) -> Locked<'_> {
    lock.lock(id(), is_alive)
}

fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH) && !is_zombie(pid)
}

/// Was it killed, while its parent has not yet waited for it?
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name, which may hold anything, ends at the last parenthesis.
    let state = stat.iter().rposition(|b| *b == b')').and_then(|at| stat.get(at + 2));
    state == Some(&b'Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_process_has_a_number_of_its_own() {
        assert_eq!(id(), std::process::id());
        // SAFETY: the child only looks at numbers, and ends without anything of the parent's.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let good = id() == std::process::id() && id() == std::process::id();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if good { 0 } else { 1 }) };
        }
        assert!(child > 0);
        let mut status = -1;
        // SAFETY: waits for the child just made; the status lives through the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
        assert_eq!(id(), std::process::id());
    }
}
