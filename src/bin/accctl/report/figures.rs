//! What is counted.

use std::collections::{BTreeMap, HashMap};

use chrono::{NaiveDateTime, Timelike as _};

use crate::rows::Row;

/// Calls shorter than this, in milliseconds, are counted separately: wrong numbers, answering machines, fraud.
const SHORT_MS: i64 = 6000;

/// What is known about some calls.
#[derive(Debug, Default)]
pub struct Figures {
    /// Initial INVITEs.
    pub attempts: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those that failed.
    pub failed: u64,
    /// Sum of all durations, in milliseconds.
    pub duration_ms: i64,
    /// Answered and ended within [`SHORT_MS`].
    pub short: u64,
    /// How many calls have which code.
    pub codes: BTreeMap<u16, u64>,
    /// How many calls ended in which way.
    pub causes: BTreeMap<String, u64>,
    /// How many calls took how many milliseconds to the answer.
    pub setups: Spread,
    /// How many calls took how many milliseconds until they rang.
    pub pdds: Spread,
}

impl Figures {
    fn add(&mut self, row: &Row<'_>) {
        self.attempts += 1;
        *self.codes.entry(row.code).or_default() += 1;
        if (200..300).contains(&row.code) {
            self.answered += 1;
            self.duration_ms += row.duration_ms;
            self.short += u64::from(row.duration_ms < SHORT_MS && row.end_cause.is_some() || (1..SHORT_MS).contains(&row.duration_ms));
            if let Some(setup) = row.setup_ms.filter(|ms| *ms >= 0) {
                self.setups.add(setup);
            }
        } else {
            self.failed += 1;
        }
        if let Some(pdd) = row.pdd_ms.filter(|ms| *ms >= 0) {
            self.pdds.add(pdd);
        }
        if let Some(cause) = &row.end_cause {
            match self.causes.get_mut(&**cause) {
                Some(n) => *n += 1,
                None => drop(self.causes.insert(cause.to_string(), 1)),
            }
        }
    }

    /// Whether failed calls have records at all: without them every call seems to be answered.
    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// ASR (share of attempts that were answered) and NER (E.425: these, and those that failed because a person wanted it).
    pub fn rates(&self, user_codes: &[u16]) -> Option<(f64, f64)> {
        if self.has_failed() { self.rates_of_a_part(user_codes) } else { None }
    }

    /// The same for a part of the calls, if others have failed.
    pub fn rates_of_a_part(&self, user_codes: &[u16]) -> Option<(f64, f64)> {
        let of = |n: u64| (self.attempts > 0).then(|| n as f64 / self.attempts as f64);
        let by_user: u64 = user_codes.iter().filter_map(|code| self.codes.get(code)).sum();
        Some((of(self.answered)?, of(self.answered + by_user)?))
    }

    /// Mean duration of answered calls, in milliseconds.
    pub fn mean_ms(&self) -> Option<i64> {
        self.duration_ms.checked_div(i64::try_from(self.answered).ok()?)
    }
}

/// How many calls took how many milliseconds to something.
#[derive(Debug, Default)]
pub struct Spread(BTreeMap<i64, u64>);

impl Spread {
    fn add(&mut self, ms: i64) {
        *self.0.entry(ms).or_default() += 1;
    }

    /// The value that this share of them does not exceed, in milliseconds.
    pub fn below(&self, share: f64) -> Option<i64> {
        let total: u64 = self.0.values().sum();
        let rank = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.0
            .iter()
            .find(|(_, n)| {
                seen += **n;
                seen >= rank
            })
            .map(|(ms, _)| *ms)
    }
}

/// The most frequent names.
pub fn most<T: Clone + Ord>(counts: &BTreeMap<T, u64>, number: usize) -> Vec<(T, u64)> {
    let mut all: Vec<_> = counts.iter().map(|(name, n)| (name.clone(), *n)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(number);
    all
}

/// A whole span.
pub struct Report {
    /// All calls.
    pub all: Figures,
    /// By the hour of the day in which they were answered or refused.
    pub hours: [u64; 24],
    /// Time of the first and the last one.
    pub span: (Option<NaiveDateTime>, Option<NaiveDateTime>),
    by: HashMap<String, Figures>,
    /// Begins and ends of calls, in milliseconds.
    times: (Vec<i64>, Vec<i64>),
}

impl Report {
    /// An empty report.
    pub fn new() -> Report {
        Report { all: Figures::default(), hours: [0; 24], span: (None, None), by: HashMap::new(), times: (Vec::new(), Vec::new()) }
    }

    /// Counts a record; records of requests inside a call and of other methods do not count.
    pub fn add(&mut self, row: &Row<'_>) {
        if row.method != "INVITE" || row.code < 200 {
            return;
        }
        self.all.add(row);
        self.hours[row.time.hour() as usize % 24] += 1;
        self.span = (Some(self.span.0.map_or(row.time, |t| t.min(row.time))), Some(self.span.1.map_or(row.time, |t| t.max(row.time))));
        if let Some(value) = row.fields.first() {
            let value = value.as_deref().unwrap_or_default();
            match self.by.get_mut(value) {
                Some(figures) => figures.add(row),
                None => self.by.entry(value.to_string()).or_default().add(row),
            }
        }
        if row.duration_ms > 0 {
            let begin = row.time.and_utc().timestamp_millis();
            self.times.0.push(begin);
            self.times.1.push(begin + row.duration_ms);
        }
    }

    /// Most calls at the same time.
    pub fn concurrent(&self) -> usize {
        let (mut begins, mut ends) = self.times.clone();
        begins.sort_unstable();
        ends.sort_unstable();
        let mut most = 0;
        let mut ended = 0;
        for (begun, begin) in begins.iter().enumerate() {
            while ends[ended] <= *begin {
                ended += 1;
            }
            most = most.max(begun + 1 - ended);
        }
        most
    }

    /// The most calls at the same time in each of `number` equal parts of the span, with the beginning of the part; empty if the
    /// span has no length.
    #[cfg(feature = "html")]
    pub fn concurrency(&self, number: usize) -> Vec<(NaiveDateTime, usize)> {
        let (Some(first), Some(last)) = self.span else { return Vec::new() };
        let begin = first.and_utc().timestamp_millis();
        let length = last.and_utc().timestamp_millis() + 1 - begin;
        let part = (length / i64::try_from(number).unwrap_or(1)).max(1);
        let mut events: Vec<(i64, i8)> = self.times.0.iter().map(|t| (*t, 1)).chain(self.times.1.iter().map(|t| (*t, -1))).collect();
        // Ends first, as in `concurrent`.
        events.sort_unstable();
        let mut events = events.into_iter().peekable();
        let mut now = 0i64;
        let parts = (0..i64::try_from(number).unwrap_or(0)).map(|i| begin + i * part).take_while(|t| *t < begin + length);
        parts
            .map(|at| {
                let mut most = now;
                while let Some((_, change)) = events.next_if(|(t, _)| *t < at + part) {
                    now += i64::from(change);
                    most = most.max(now);
                }
                let time = chrono::DateTime::from_timestamp_millis(at).unwrap_or_default().naive_utc();
                (time, usize::try_from(most).unwrap_or(0))
            })
            .collect()
    }

    /// By the field; those with most attempts come first.
    pub fn groups(&self, top: usize) -> Vec<(String, &Figures)> {
        let mut all: Vec<_> = self.by.iter().map(|(name, f)| (if name.is_empty() { "(none)".to_string() } else { name.clone() }, f)).collect();
        all.sort_by(|a, b| b.1.attempts.cmp(&a.1.attempts).then(a.0.cmp(&b.0)));
        all.truncate(top);
        all
    }
}

pub fn seconds(ms: Option<i64>) -> String {
    ms.map_or("-".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0))
}

pub fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}

/// `1:02:03`
pub fn clock(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
