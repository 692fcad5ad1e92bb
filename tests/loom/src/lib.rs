//! Every order in which processes can take the steps of `src/interprocess.rs`, and every step
//! after which one of them can be killed. Run by `scripts/test`:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --manifest-path tests/loom/Cargo.toml
//! ```
#![cfg(loom)]
#![forbid(unsafe_code)]

#[path = "../../../src/interprocess.rs"]
#[allow(dead_code, reason = "the library's own file, of which the tests use a part")]
mod interprocess;

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use loom::thread;

    use super::interprocess::{Bell, Content, Flags, FreeList, Lock, Pen, Sequence, Used};

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

    /// A context as `host::shared` keeps it: a content is two words in a block of its own, an instant
    /// two words in place, which count once a flag says so.
    struct Slot {
        lock: Lock,
        content: Content,
        blocks: [[AtomicU32; 2]; 3],
        instant: [AtomicU32; 2],
        flags: Flags,
    }

    impl Slot {
        fn new() -> Slot {
            let zero = || [AtomicU32::new(0), AtomicU32::new(0)];
            let slot = Slot { lock: Lock::free(), content: Content::none(), blocks: std::array::from_fn(|_| zero()), instant: zero(), flags: Flags::new(0) };
            slot.write(1, 0);
            slot.write(1, 1);
            slot.content.replace(1);
            slot
        }

        fn write(&self, block: u32, word: usize) {
            self.blocks[block as usize][word].store(block, Ordering::Relaxed);
        }

        /// A change, by its steps.
        fn step(&self, number: usize) {
            match number {
                1 => self.write(2, 0),
                2 => self.write(2, 1),
                3 => drop(self.content.replace(2)),
                4 => self.instant[0].store(7, Ordering::Relaxed),
                5 => self.instant[1].store(7, Ordering::Relaxed),
                _ => self.flags.set(1, 1),
            }
        }

        /// The content is a whole one, and the instant if it counts; which, and does it?
        fn read(&self) -> (u32, bool) {
            let is_on = self.flags.get() & 1 != 0;
            if is_on {
                assert!(self.instant.iter().all(|word| word.load(Ordering::Relaxed) == 7), "half of an instant");
            }
            let block = self.content.get() as u32;
            for word in &self.blocks[block as usize] {
                assert_eq!(word.load(Ordering::Relaxed), block, "half of a content");
            }
            (block, is_on)
        }
    }

    #[test]
    fn a_holder_killed_after_any_step_leaves_a_whole_context_and_the_lock() {
        for steps in 0..=6 {
            loom::model(move || {
                let shared = Arc::new((Slot::new(), AtomicBool::new(false)));
                let other = shared.clone();
                let thread = thread::spawn(move || {
                    let (slot, dead) = &*other;
                    let locked = slot.lock.lock(2, |_| true);
                    (1..=steps).for_each(|n| slot.step(n));
                    locked.killed();
                    // That it is dead is all the others learn of it: no memory is ordered by it.
                    dead.store(true, Ordering::Relaxed);
                    slot.lock.time_passes();
                });
                let (slot, dead) = &*shared;
                {
                    let _locked = slot.lock.lock(1, |holder| holder != 2 || !dead.load(Ordering::Relaxed));
                    let found = slot.read();
                    assert!(found == (1, false) || (steps >= 3 && found == (2, false)) || (steps == 6 && found == (2, true)));
                }
                thread.join().unwrap();
                assert_eq!(slot.read(), (if steps >= 3 { 2 } else { 1 }, steps == 6));
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

    /// A sleeper that nobody woke would be a deadlock, which loom finds: time does not pass here.
    #[test]
    fn who_sleeps_for_a_lock_is_woken() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((Lock::free(), AtomicU32::new(0)));
            let threads = [2, 3].map(|me| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let _locked = shared.0.lock(me, |_| true);
                    count(&shared.1);
                })
            });
            {
                let _locked = shared.0.lock(1, |_| true);
                count(&shared.1);
            }
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(shared.1.load(Ordering::Relaxed), 3);
        });
    }

    #[test]
    fn flags_set_by_several_are_all_there() {
        loom::model(|| {
            let flags = Arc::new(Flags::new(0b100));
            let other = flags.clone();
            let thread = thread::spawn(move || other.set(0b101, 0b001));
            flags.set(0b010, 0b010);
            thread.join().unwrap();
            assert_eq!(flags.get(), 0b011);
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

    /// Who closes a file sees all that was appended to it, and what it does not see goes elsewhere; whether the writer appends,
    /// or is killed in the middle, or gives the file up.
    #[test]
    fn nothing_is_appended_to_a_file_that_was_closed() {
        const MARK: u64 = 8;
        for killed in [false, true] {
            loom::model(move || {
                let shared = Arc::new((Pen::of_none(), AtomicU32::new(0)));
                assert!(shared.0.begin(MARK) && !shared.0.begin(2 * MARK));
                shared.0.rest(MARK);
                let other = shared.clone();
                let thread = thread::spawn(move || {
                    let (pen, length) = &*other;
                    for n in 1..=2 {
                        if !pen.hold(MARK) {
                            pen.give_back(MARK);
                            return n - 1;
                        }
                        length.store(n, Ordering::Relaxed);
                        if killed && n == 2 {
                            return n;
                        }
                        pen.rest(MARK);
                    }
                    2
                });
                let (pen, length) = &*shared;
                assert!(!pen.close(2 * MARK));
                let seen = pen.close(MARK).then(|| length.load(Ordering::Relaxed));
                let appended = thread.join().unwrap();
                match seen {
                    Some(seen) => assert_eq!(seen, appended),
                    // It was just appending, or is dead: then its lock on the file is gone, and that closes it.
                    None => assert!(pen.is_of(MARK)),
                }
                pen.give_back(2 * MARK);
                pen.give_back(MARK);
                assert!(!pen.is_closed(MARK) && pen.begin(2 * MARK), "it is free for another file");
            });
        }
    }

    /// How many blocks the arenas below have.
    const BLOCKS: u32 = 3;

    /// Blocks of an arena: who has which, and the free ones.
    struct Blocks {
        used: Used,
        free: FreeList,
        next: [AtomicU32; BLOCKS as usize + 1],
        users: [AtomicU32; BLOCKS as usize + 1],
    }

    impl Blocks {
        fn new() -> Blocks {
            let zero = || std::array::from_fn(|_| AtomicU32::new(0));
            let blocks = Blocks { used: Used::none(), free: FreeList::empty(), next: zero(), users: zero() };
            for block in 1..=BLOCKS {
                blocks.free.push(block, &blocks.next[block as usize]);
            }
            blocks
        }

        /// As `Arena::take` does: in portions of up to `portion`, into one chain.
        fn take(&self, n: u32, portion: u32) -> Option<u32> {
            if !self.used.claim(n.into(), BLOCKS.into()) {
                return None;
            }
            let (mut first, mut taken) = (0, 0);
            while taken < n {
                let chain = self.free.pop((n - taken).min(portion), |b| &self.next[b as usize]).expect("a claim that was granted finds its blocks");
                self.next[chain.last as usize].store(first, Ordering::Relaxed);
                (first, taken) = (chain.first, taken + chain.len);
            }
            let mut at = first;
            while at != 0 {
                assert_eq!(self.users[at as usize].fetch_add(1, Ordering::Relaxed), 0, "block {at} was given out twice");
                at = self.next[at as usize].load(Ordering::Relaxed);
            }
            Some(first)
        }

        fn give(&self, first: u32) {
            let (mut last, mut n) = (first, 0);
            loop {
                self.users[last as usize].fetch_sub(1, Ordering::Relaxed);
                n += 1;
                match self.next[last as usize].load(Ordering::Relaxed) {
                    0 => break,
                    next => last = next,
                }
            }
            self.free.push(first, &self.next[last as usize]);
            self.used.give(n);
        }

        fn left(&self) -> usize {
            std::iter::from_fn(|| self.take(1, 1)).count()
        }
    }

    #[test]
    fn a_block_has_one_user_and_comes_back() {
        for portion in [1, 2] {
            let mut model = loom::model::Builder::new();
            model.preemption_bound = Some(3);
            model.check(move || {
                let blocks = Arc::new(Blocks::new());
                let other = blocks.clone();
                let thread = thread::spawn(move || {
                    // Gives back in the other order: the first one is the first again.
                    let (a, b) = (other.take(1, portion), other.take(1, portion));
                    a.into_iter().chain(b).for_each(|first| other.give(first));
                });
                if let Some(first) = blocks.take(2, portion) {
                    blocks.give(first);
                }
                thread.join().unwrap();
                assert_eq!(blocks.left(), BLOCKS as usize);
            });
        }
    }

    #[test]
    fn numbers_of_a_sequence_are_read_as_a_whole() {
        loom::model(|| {
            let shared = Arc::new((Sequence::unchanged(), AtomicU32::new(0), AtomicU32::new(0)));
            let other = shared.clone();
            let thread = thread::spawn(move || {
                for n in 1..=2 {
                    other.0.write(|| {
                        other.1.store(n, Ordering::Relaxed);
                        other.2.store(n, Ordering::Relaxed);
                    });
                }
            });
            let read = || shared.0.read(|| (shared.1.load(Ordering::Relaxed), shared.2.load(Ordering::Relaxed)));
            if let Some((one, other)) = read() {
                assert_eq!(one, other);
            }
            thread.join().unwrap();
            assert_eq!(read(), Some((2, 2)));
        });
    }

    #[test]
    fn a_killed_process_keeps_no_more_than_its_blocks() {
        loom::model(|| {
            let blocks = Arc::new(Blocks::new());
            let other = blocks.clone();
            let thread = thread::spawn(move || other.take(2, 2).is_some());
            if let Some(first) = blocks.take(1, 2) {
                blocks.give(first);
            }
            let kept = if thread.join().unwrap() { 2 } else { 0 };
            assert_eq!(blocks.left(), BLOCKS as usize - kept);
        });
    }
}
