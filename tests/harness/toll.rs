//! What the kills of a test hit. Each strike is noted as it is dealt; in the end the journal tells in whose code it
//! landed, and whether what an earlier one had cut off was still not done again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kar_proto::v1::{InvocationState, ListInvocationsRequest};
use serde::Serialize;

use crate::journal::Attempt;
use crate::{Client, Journal};

/// Kills in the middle of what a test is about: fewer show nothing.
pub const HITS_MIN: usize = 20;

/// Longest time to ask who runs turns: while somebody is dead there may be no answer for long.
const ASKING_LIMIT: Duration = Duration::from_secs(1);

/// Strikes in the order in which they were dealt.
#[derive(Clone, Debug, Default)]
pub struct Toll(Vec<Strike>);

/// SIGKILLs of one moment.
#[derive(Clone, Debug)]
struct Strike {
    at: Duration,
    /// Components that died, by themselves or with their sidecars.
    components: Vec<u32>,
    /// The hub died.
    hub: bool,
}

/// What strikes hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Hits {
    /// All of them.
    pub strikes: usize,
    /// Those that cut an attempt off, which had to be made again; of a hub alone, those that came while code ran.
    pub in_turns: usize,
    /// Those that came before what an earlier one had cut off was done again.
    pub in_recovery: usize,
}

/// The time by the journal's clock.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Whether a node says that it runs turns: for components that write no journal.
pub async fn runs_turns(client: &Client, node: &str) -> bool {
    let mut client = client.invocation();
    let listed = client.list_invocations(ListInvocationsRequest::default());
    let Ok(Ok(listed)) = tokio::time::timeout(ASKING_LIMIT, listed).await else { return false };
    let mut rows = listed.into_inner().invocations.into_iter();
    // A turn that waits for its calls has begun, too.
    let begun = [InvocationState::Running, InvocationState::Suspended];
    rows.any(|row| row.node == node && begun.contains(&row.state()))
}

impl Toll {
    /// These are about to be killed at once: components that live (with or without their sidecars), and maybe the hub.
    pub fn strike(&mut self, components: impl IntoIterator<Item = Option<u32>>, hub: bool) {
        let components = components.into_iter().flatten().collect();
        self.0.push(Strike { at: now(), components, hub });
    }

    /// So many so far.
    pub fn strikes(&self) -> usize {
        self.0.len()
    }

    /// What they hit, as far as the journal knows.
    pub fn hits(&self, journal: &Journal) -> Hits {
        let attempts = journal.attempts();
        let mut hits = Hits { strikes: self.0.len(), ..Hits::default() };
        let mut recovered = Duration::ZERO;
        for strike in &self.0 {
            hits.in_recovery += usize::from(strike.at < recovered);
            let again = strike.done_again(&attempts);
            hits.in_turns += usize::from(again.is_some() || strike.came_while_code_ran(&attempts));
            recovered = recovered.max(again.unwrap_or_default());
        }
        hits
    }
}

impl Hits {
    /// One strike more.
    pub fn add(&mut self, in_turns: bool, in_recovery: bool) {
        self.strikes += 1;
        self.in_turns += usize::from(in_turns);
        self.in_recovery += usize::from(in_recovery);
    }

    /// Those of several applications.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            strikes: self.strikes + other.strikes,
            in_turns: self.in_turns + other.in_turns,
            in_recovery: self.in_recovery + other.in_recovery,
        }
    }

    /// Whether enough strikes landed where they were to.
    pub fn are_enough(&self) -> bool {
        self.in_turns >= HITS_MIN && self.in_recovery > 0
    }

    /// Prints the figures, and fails unless enough strikes landed where they were to.
    ///
    /// # Panics
    ///
    /// See above.
    #[track_caller]
    pub fn assert(&self, test: &str) {
        self.assert_in_turns(test);
        assert!(self.in_recovery > 0, "no strike came while an earlier one was recovered from");
    }

    /// The same for strikes that cut no code off, so that nothing has to be done again: those at hubs alone.
    ///
    /// # Panics
    ///
    /// See above.
    #[track_caller]
    pub fn assert_in_turns(&self, test: &str) {
        let Self { strikes, in_turns, in_recovery } = self;
        println!(
            "{test}: {strikes} strikes, {in_turns} of them in the middle of turns, {in_recovery} \
             while what an earlier one had cut off was not done again"
        );
        assert!(*in_turns >= HITS_MIN, "only {in_turns} of {strikes} strikes landed in turns");
    }
}

impl Strike {
    /// When the last of what it cut off was done again; `None`: it cut nothing off.
    fn done_again(&self, attempts: &BTreeMap<String, Vec<Attempt>>) -> Option<Duration> {
        let again = |of_key: &Vec<Attempt>| {
            // Code may reach its end though its sidecar, which it would tell, is gone.
            let cut_off = |a: &Attempt| a.is_open_at(self.at) && self.components.contains(&a.pid());
            let at = of_key.iter().position(cut_off)?;
            let later = of_key[at + 1..].iter().filter(|a| a.start > self.at);
            let mut later = later.peekable();
            let first = later.peek()?.start;
            Some(later.find(|a| a.ended).map_or(first, |done| done.last))
        };
        attempts.values().filter_map(again).max()
    }

    fn came_while_code_ran(&self, attempts: &BTreeMap<String, Vec<Attempt>>) -> bool {
        let running = |a: &Attempt| a.start <= self.at && self.at < a.last;
        self.hub && attempts.values().flatten().any(running)
    }
}
