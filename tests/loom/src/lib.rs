//! Every order in which processes can take the steps of `src/host/interprocess.rs`, and every step
//! after which one of them can be killed. Run by `scripts/test`:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --manifest-path tests/loom/Cargo.toml
//! ```
#![cfg(loom)]
#![forbid(unsafe_code)]

#[path = "../../../src/host/interprocess.rs"]
#[allow(dead_code, reason = "the library's own file, of which the tests use a part")]
mod interprocess;

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use loom::thread;

    use super::interprocess::{Bell, Content, FreeList, Lock};

    /// A number that only the holder of the lock changes, in two steps.
    fn count(number: &AtomicU32) {
        let before = number.load(Ordering::Relaxed);
        number.store(before + 1, Ordering::Relaxed);
    }

    #[test]
    fn one_process_at_a_time_holds_the_lock() {
        loom::model(|| {
            let shared = Arc::new((Lock::free(), AtomicU32::new(0)));
            let other = shared.clone();
            let thread = thread::spawn(move || {
                let _locked = other.0.lock(2, |_| true);
                count(&other.1);
            });
            {
                let _locked = shared.0.lock(1, |_| true);
                count(&shared.1);
            }
            thread.join().unwrap();
            assert_eq!(shared.1.load(Ordering::Relaxed), 2);
        });
    }

    /// A context as `host::shared` keeps it: a content is two words in a block of its own.
    struct Slot {
        lock: Lock,
        content: Content,
        blocks: [[AtomicU32; 2]; 3],
    }

    impl Slot {
        fn new() -> Slot {
            let slot = Slot { lock: Lock::free(), content: Content::none(), blocks: std::array::from_fn(|_| [AtomicU32::new(0), AtomicU32::new(0)]) };
            slot.write(1, 0);
            slot.write(1, 1);
            slot.content.replace(1);
            slot
        }

        fn write(&self, block: u32, word: usize) {
            self.blocks[block as usize][word].store(block, Ordering::Relaxed);
        }

        /// The content is a whole one; which?
        fn read(&self) -> u32 {
            let block = self.content.get() as u32;
            for word in &self.blocks[block as usize] {
                assert_eq!(word.load(Ordering::Relaxed), block, "half of a content");
            }
            block
        }
    }

    #[test]
    fn a_holder_killed_after_any_step_leaves_a_whole_content_and_the_lock() {
        for steps in 0..=3 {
            loom::model(move || {
                let shared = Arc::new((Slot::new(), AtomicBool::new(false)));
                let other = shared.clone();
                let thread = thread::spawn(move || {
                    let (slot, dead) = &*other;
                    let locked = slot.lock.lock(2, |_| true);
                    if steps > 0 {
                        slot.write(2, 0);
                    }
                    if steps > 1 {
                        slot.write(2, 1);
                    }
                    if steps > 2 {
                        slot.content.replace(2);
                    }
                    locked.killed();
                    // That it is dead is all the others learn of it: no memory is ordered by it.
                    dead.store(true, Ordering::Relaxed);
                });
                let (slot, dead) = &*shared;
                {
                    let _locked = slot.lock.lock(1, |holder| holder != 2 || !dead.load(Ordering::Relaxed));
                    let found = slot.read();
                    assert!(found == 1 || steps == 3);
                }
                thread.join().unwrap();
                assert_eq!(slot.read(), if steps == 3 { 2 } else { 1 });
            });
        }
    }

    #[test]
    fn of_two_that_wait_for_a_dead_holder_one_takes_over() {
        loom::model(|| {
            let shared = Arc::new((Lock::free(), AtomicU32::new(0)));
            shared.0.lock(9, |_| true).killed();
            let threads = [1, 2].map(|me| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let _locked = shared.0.lock(me, |holder| holder != 9);
                    count(&shared.1);
                })
            });
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(shared.1.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_listener_that_waits_is_woken_and_sees_what_is_there() {
        loom::model(|| {
            let shared = Arc::new((Bell::quiet(), AtomicBool::new(false), AtomicBool::new(false)));
            let other = shared.clone();
            let thread = thread::spawn(move || {
                let (bell, there, woken) = &*other;
                there.store(true, Ordering::Relaxed);
                if bell.ring() {
                    woken.store(true, Ordering::Relaxed);
                }
            });
            let (bell, there, woken) = &*shared;
            bell.hear();
            if !there.load(Ordering::Relaxed) {
                if bell.wait() {
                    while !woken.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                }
                assert!(bell.hear());
                assert!(there.load(Ordering::Relaxed), "woken for nothing");
            }
            thread.join().unwrap();
        });
    }

    /// Blocks of an arena: who has which, and the free ones.
    struct Blocks {
        free: FreeList,
        next: [AtomicU32; 3],
        users: [AtomicU32; 3],
    }

    impl Blocks {
        fn new() -> Blocks {
            let zero = || std::array::from_fn(|_| AtomicU32::new(0));
            let blocks = Blocks { free: FreeList::empty(), next: zero(), users: zero() };
            for block in [1, 2] {
                blocks.free.push(block, &blocks.next[block as usize]);
            }
            blocks
        }

        fn take(&self) -> Option<u32> {
            let block = self.free.pop(|b| &self.next[b as usize])?;
            assert_eq!(self.users[block as usize].fetch_add(1, Ordering::Relaxed), 0, "block {block} was given out twice");
            Some(block)
        }

        fn give(&self, block: u32) {
            self.users[block as usize].fetch_sub(1, Ordering::Relaxed);
            self.free.push(block, &self.next[block as usize]);
        }

        fn left(&self) -> usize {
            std::iter::from_fn(|| self.take()).count()
        }
    }

    #[test]
    fn a_block_has_one_user_and_comes_back() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let blocks = Arc::new(Blocks::new());
            let other = blocks.clone();
            let thread = thread::spawn(move || {
                // Takes both and gives them back in the other order: the first one is the first again.
                let (a, b) = (other.take(), other.take());
                a.into_iter().chain(b).for_each(|block| other.give(block));
            });
            if let Some(block) = blocks.take() {
                blocks.give(block);
            }
            thread.join().unwrap();
            assert_eq!(blocks.left(), 2);
        });
    }

    #[test]
    fn a_killed_process_keeps_no_more_than_its_block() {
        loom::model(|| {
            let blocks = Arc::new(Blocks::new());
            let other = blocks.clone();
            let thread = thread::spawn(move || other.take().is_some());
            if let Some(block) = blocks.take() {
                blocks.give(block);
            }
            thread.join().unwrap();
            assert_eq!(blocks.left(), 1);
        });
    }
}
