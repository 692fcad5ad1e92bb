//! The watchdog of a connection (RFC 3539 §3.4.1), as a state machine without a clock of its own.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

/// By how much a pause may differ from the configured one, so that nodes do not march in step.
const JITTER: Duration = Duration::from_secs(2);

/// What a pause without a sign of life calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Send a Device-Watchdog-Request.
    Ask,
    /// It was not answered: requests go elsewhere from now on.
    Suspect,
    /// The connection has become useless.
    Close,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Okay,
    Suspect,
    /// A connection after one that broke: this many of our requests have been answered.
    Reopen(u8),
}

/// Answers that a connection after one that broke has to give.
const PROOFS: u8 = 3;

/// The watchdog.
pub struct Watchdog {
    tw: Duration,
    state: State,
    /// A request is not answered yet.
    pending: bool,
    due: Instant,
}

impl Watchdog {
    /// For a connection that has just been opened. `again`: after one that broke; then a request is due at once.
    pub fn new(tw: Duration, again: bool, now: Instant) -> Watchdog {
        let mut watchdog = Watchdog { tw, state: if again { State::Reopen(0) } else { State::Okay }, pending: false, due: now };
        if !again {
            watchdog.wind(now);
        }
        watchdog
    }

    fn wind(&mut self, now: Instant) {
        let jitter = JITTER.min(self.tw / 3);
        self.due = now + self.tw - jitter + jitter.mul_f64(2.0 * fastrand::f64());
    }

    /// When it wants to be asked next.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Requests may be sent.
    pub fn is_okay(&self) -> bool {
        self.state == State::Okay
    }

    /// A message came; `answer`: to a Device-Watchdog-Request.
    pub fn heard(&mut self, answer: bool, now: Instant) {
        if answer {
            self.pending = false;
        }
        self.wind(now);
        match self.state {
            State::Okay => {}
            State::Suspect => self.state = State::Okay,
            State::Reopen(proofs) if answer && proofs + 1 >= PROOFS => self.state = State::Okay,
            State::Reopen(proofs) if answer => {
                self.state = State::Reopen(proofs + 1);
                // The next one follows without a pause, because records are waiting.
                self.due = now;
            }
            State::Reopen(_) => {}
        }
    }

    /// Nothing has come for the whole pause.
    pub fn expire(&mut self, now: Instant) -> Alarm {
        self.wind(now);
        match (self.state, self.pending) {
            (_, false) => {
                self.pending = true;
                Alarm::Ask
            }
            (State::Okay, true) => {
                self.state = State::Suspect;
                Alarm::Suspect
            }
            (State::Suspect | State::Reopen(_), true) => Alarm::Close,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TW: Duration = Duration::from_secs(30);

    #[test]
    fn silence_asks_then_suspects_then_closes() {
        let now = Instant::now();
        let mut w = Watchdog::new(TW, false, now);
        assert!(w.is_okay() && w.due() >= now + TW - JITTER && w.due() <= now + TW + JITTER);
        assert_eq!([(); 3].map(|()| w.expire(now)), [Alarm::Ask, Alarm::Suspect, Alarm::Close]);
    }

    #[test]
    fn any_message_puts_it_off_and_makes_good() {
        let now = Instant::now();
        let mut w = Watchdog::new(TW, false, now);
        w.heard(false, now + TW);
        assert!(w.due() >= now + TW + TW - JITTER);
        assert_eq!([(); 2].map(|()| w.expire(now)), [Alarm::Ask, Alarm::Suspect]);
        assert!(!w.is_okay());
        w.heard(false, now);
        assert!(w.is_okay());
        // The request is not answered yet.
        assert_eq!(w.expire(now), Alarm::Suspect);
        w.heard(true, now);
        assert_eq!(w.expire(now), Alarm::Ask);
    }

    #[test]
    fn after_a_broken_connection_three_answers_are_wanted() {
        let now = Instant::now();
        let mut w = Watchdog::new(TW, true, now);
        for n in 1..=3 {
            assert!(!w.is_okay() && w.due() == now, "{n}");
            assert_eq!(w.expire(now), Alarm::Ask);
            w.heard(false, now);
            assert!(!w.is_okay(), "other messages prove nothing");
            w.heard(true, now);
        }
        assert!(w.is_okay() && w.due() > now);
        let mut w = Watchdog::new(TW, true, now);
        assert_eq!([(); 2].map(|()| w.expire(now)), [Alarm::Ask, Alarm::Close]);
    }
}
