//! What of a topic is here, and what is to be said about it: the decisions of a consumer, without its streams.
//!
//! A consumer outlives its streams. To the sidecar each stream is a new beginning: it gives everything again that is
//! not acknowledged durably, and takes acknowledgements only of what it has given on that stream. To the program the
//! consumer is one: it is given each event once. So what is here (`ahead`: not given to the program yet, `given`: given
//! and not acknowledged, `unsure`: acknowledged, and not known to be durable) is not taken again when it comes again,
//! and what is unsure is acknowledged again then. What of it has not come again yet is `stale`: an acknowledgement of
//! it has to wait.
//!
//! A stream gives a partition's events in order. What is stale and lies below one that has come does not come any more:
//! somebody else has done with it under the consumer's name, or the topic has let it go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kar_proto::v1 as proto;

use super::Received;

/// Partition and offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    partition: u32,
    offset: u64,
}

/// A consumer's events.
#[derive(Debug)]
pub(super) struct Window {
    ahead_max: u16,
    is_named: bool,
    ahead: VecDeque<(Place, Received)>,
    // The next three are of consumers with a name; others acknowledge nothing.
    given: BTreeSet<Place>,
    unsure: BTreeSet<Place>,
    stale: BTreeSet<Place>,
    /// By partition the offset behind the last event that came: where one without a name goes on.
    behind: BTreeMap<u32, u64>,
    /// To be said: so many more may come.
    credits: u32,
    /// Credits that were given for events that are still ahead.
    advanced: u32,
    /// To be said: these are done with.
    acknowledgements: Vec<Place>,
}

/// How the next stream is to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Beginning {
    /// Events that may come.
    pub(super) credits: i32,
    /// Where a consumer without a name goes on; empty: it has not begun, or the sidecar knows.
    pub(super) positions: Vec<String>,
}

// === impl Window ===

impl Window {
    /// Of a consumer that takes so many events ahead, at least 1.
    pub(super) fn new(ahead_max: u16, is_named: bool) -> Self {
        Self {
            ahead_max,
            is_named,
            ahead: VecDeque::new(),
            given: BTreeSet::new(),
            unsure: BTreeSet::new(),
            stale: BTreeSet::new(),
            behind: BTreeMap::new(),
            credits: 0,
            advanced: 0,
            acknowledgements: Vec::new(),
        }
    }

    /// A stream is to be opened.
    pub(super) fn begin(&mut self) -> Beginning {
        self.credits = 0;
        self.acknowledgements.clear();
        self.stale.clear();
        let mut positions = Vec::new();
        if self.is_named {
            let ahead = self.ahead.iter().map(|(at, _)| at);
            self.stale.extend(self.given.iter().chain(&self.unsure).chain(ahead));
        } else {
            positions.extend(self.behind.iter().map(|(p, offset)| format!("{p}/{offset}")));
        }
        let (room, here) = (u32::from(self.ahead_max), self.ahead.len());
        let here = u32::try_from(here).unwrap_or(u32::MAX);
        // 0 would mean any number.
        let credits = room.saturating_sub(here).max(1);
        self.advanced = (credits + here).saturating_sub(room);
        Beginning { credits: i32::try_from(credits).unwrap_or(i32::MAX), positions }
    }

    /// It has begun, at these positions.
    pub(super) fn opened(&mut self, positions: impl IntoIterator<Item = Place>) {
        for Place { partition, offset } in positions {
            self.behind.entry(partition).or_insert(offset);
            self.pass(partition, offset);
        }
    }

    /// An event has come.
    pub(super) fn came(&mut self, at: Place, received: Received) {
        self.behind.insert(at.partition, at.offset + 1);
        self.pass(at.partition, at.offset);
        if !self.stale.remove(&at) {
            self.ahead.push_back((at, received));
            if self.is_waiting() {
                (self.credits, self.advanced) = (self.credits + 1, self.advanced + 1);
            }
            return;
        }
        self.credits += 1;
        if self.unsure.contains(&at) {
            self.acknowledgements.push(at);
        }
    }

    /// These acknowledgements are durable.
    pub(super) fn confirmed(&mut self, positions: impl IntoIterator<Item = Place>) {
        for at in positions {
            self.unsure.remove(&at);
        }
    }

    /// What is to be said now: every acknowledgement, and credits with them, or when they are worth it.
    pub(super) fn outgoing(&mut self) -> Option<proto::ConsumeRequest> {
        let worth = if self.is_waiting() { 1 } else { u32::from(self.ahead_max / 2).max(1) };
        if self.acknowledgements.is_empty() && self.credits < worth {
            return None;
        }
        let acknowledged = self.acknowledgements.drain(..).map(|at| at.to_string()).collect();
        let credits = i32::try_from(std::mem::take(&mut self.credits)).unwrap_or(i32::MAX);
        Some(proto::ConsumeRequest { acknowledged, credits, ..Default::default() })
    }

    /// The next event for the program, if one is here.
    pub(super) fn take(&mut self) -> Option<Received> {
        let (at, received) = self.ahead.pop_front()?;
        if self.is_named {
            self.given.insert(at);
        }
        self.makes_room(1);
        Some(received)
    }

    /// The program is done with an event. One that it was not given, or is done with, counts for nothing.
    pub(super) fn acknowledge(&mut self, at: Place) {
        if !self.given.remove(&at) {
            return;
        }
        self.unsure.insert(at);
        if !self.stale.contains(&at) {
            self.acknowledgements.push(at);
        }
    }

    /// What is acknowledged, and not known to be durable.
    pub(super) fn unsure(&self) -> BTreeSet<Place> {
        self.unsure.clone()
    }

    /// Whether these are durable, or somebody else's.
    pub(super) fn is_durable(&self, places: &BTreeSet<Place>) -> bool {
        self.unsure.is_disjoint(places)
    }

    /// What is stale below an offset does not come any more.
    fn pass(&mut self, partition: u32, offset: u64) {
        let below = Place { partition, offset: 0 }..Place { partition, offset };
        let gone: BTreeSet<Place> = self.stale.range(below).copied().collect();
        if gone.is_empty() {
            return;
        }
        for places in [&mut self.stale, &mut self.given, &mut self.unsure] {
            places.retain(|at| !gone.contains(at));
        }
        let before = self.ahead.len();
        self.ahead.retain(|(at, _)| !gone.contains(at));
        self.makes_room(u32::try_from(before - self.ahead.len()).unwrap_or(u32::MAX));
    }

    /// So many events are not ahead any more.
    fn makes_room(&mut self, count: u32) {
        let advanced = self.advanced.min(count);
        self.advanced -= advanced;
        self.credits += count - advanced;
    }

    /// An acknowledgement waits until its event has come again. Whoever waits for that takes no events meanwhile, so
    /// others that come before it must not use up the room. The sidecar bounds them: it gives no more than
    /// `consume-unacknowledged-max`.
    fn is_waiting(&self) -> bool {
        !self.stale.is_disjoint(&self.unsure)
    }
}

// === impl Place ===

impl Place {
    /// A position in two numbers; `None`: it is none.
    pub(super) fn parse(position: &str) -> Option<Self> {
        let (partition, offset) = position.split_once('/')?;
        Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn place(position: &str) -> Place {
        Place::parse(position).expect("a position")
    }

    fn came(window: &mut Window, positions: &[&str]) {
        for position in positions {
            let event = Event::from_proto(proto::Event::default());
            let received = Received { event, position: (*position).into(), published: None };
            window.came(place(position), received);
        }
    }

    /// A stream of it has begun; with how many credits.
    fn begun(window: &mut Window, positions: &[&str]) -> i32 {
        let beginning = window.begin();
        window.opened(positions.iter().map(|position| place(position)));
        beginning.credits
    }

    /// Everything that is here.
    fn taken(window: &mut Window) -> Vec<String> {
        std::iter::from_fn(|| window.take()).map(|received| received.position).collect()
    }

    /// What is to be said.
    fn said(window: &mut Window) -> (Vec<String>, i32) {
        window.outgoing().map_or((Vec::new(), 0), |said| (said.acknowledged, said.credits))
    }

    fn texts(positions: &[&str]) -> Vec<String> {
        positions.iter().map(|position| (*position).to_owned()).collect()
    }

    #[test]
    fn credits_are_given_back_when_they_are_worth_a_message() {
        let mut window = Window::new(4, true);
        assert_eq!(begun(&mut window, &["0/1"]), 4);
        came(&mut window, &["0/1", "0/2", "0/3", "0/4"]);
        window.take().expect("it is here");
        assert_eq!(window.outgoing(), None);
        window.take().expect("it is here");
        assert_eq!(said(&mut window), (vec![], 2));
        window.take().expect("it is here");
        // An acknowledgement takes along what there is.
        window.acknowledge(place("0/1"));
        assert_eq!(said(&mut window), (texts(&["0/1"]), 1));
        assert_eq!(window.outgoing(), None);
        let mut window = Window::new(1, false);
        begun(&mut window, &["0/1"]);
        came(&mut window, &["0/1"]);
        assert_eq!(taken(&mut window), ["0/1"]);
        assert_eq!(said(&mut window), (vec![], 1));
    }

    #[test]
    fn what_was_given_comes_once_and_what_is_unsure_is_acknowledged_again() {
        let mut window = Window::new(4, true);
        begun(&mut window, &["0/1"]);
        came(&mut window, &["0/1", "0/2", "0/3", "0/4"]);
        for position in ["0/1", "0/2", "0/3"] {
            assert_eq!(window.take().expect("it is here").position, position);
        }
        window.acknowledge(place("0/1"));
        window.acknowledge(place("0/3"));
        assert_eq!(said(&mut window).0, ["0/1", "0/3"]);
        window.confirmed([place("0/1")]);
        let unsure = window.unsure();
        assert_eq!(unsure, [place("0/3")].into());
        // The stream is lost: 0/2 is with the program, 0/3 unsure, 0/4 here.
        assert_eq!(begun(&mut window, &["0/2"]), 3);
        // The new stream has not given it, so it would take no acknowledgement of it.
        window.acknowledge(place("0/2"));
        assert_eq!(window.outgoing(), None);
        came(&mut window, &["0/2", "0/3", "0/4", "0/5"]);
        assert_eq!(said(&mut window), (texts(&["0/2", "0/3"]), 3), "and there is room for others");
        assert_eq!(taken(&mut window), ["0/4", "0/5"]);
        assert!(!window.is_durable(&unsure));
        window.confirmed([place("0/3"), place("0/2")]);
        assert!(window.is_durable(&unsure) && window.unsure().is_empty());
    }

    #[test]
    fn what_somebody_else_has_done_with_is_waited_for_by_nobody() {
        let mut window = Window::new(8, true);
        begun(&mut window, &["0/1", "1/1"]);
        came(&mut window, &["0/1", "0/2", "0/3", "1/1", "1/2"]);
        for position in ["0/1", "0/2"] {
            assert_eq!(window.take().expect("it is here").position, position);
            window.acknowledge(place(position));
        }
        said(&mut window);
        let unsure = window.unsure();
        // 0/1 is below what is left to be done, 0/2 is not given again, nor is 0/3.
        assert_eq!(begun(&mut window, &["0/2", "1/1"]), 5);
        assert_eq!(window.unsure(), [place("0/2")].into());
        came(&mut window, &["1/1", "1/2", "0/4"]);
        assert!(window.is_durable(&unsure));
        assert_eq!(taken(&mut window), ["1/1", "1/2", "0/4"]);
    }

    #[test]
    fn nothing_is_acknowledged_twice_or_before_it_was_given() {
        let mut window = Window::new(4, true);
        begun(&mut window, &["0/1"]);
        came(&mut window, &["0/1", "0/2"]);
        window.acknowledge(place("0/1"));
        assert!(window.unsure().is_empty());
        window.take().expect("it is here");
        window.acknowledge(place("0/1"));
        window.acknowledge(place("0/1"));
        assert_eq!(said(&mut window).0, ["0/1"]);
        window.confirmed([place("0/1")]);
        window.acknowledge(place("0/1"));
        assert!(window.unsure().is_empty() && window.outgoing().is_none());
    }

    #[test]
    fn what_has_to_come_again_comes_though_nothing_is_taken() {
        let mut window = Window::new(2, true);
        begun(&mut window, &["0/1", "1/1"]);
        came(&mut window, &["0/1"]);
        window.take().expect("it is here");
        window.acknowledge(place("0/1"));
        // The stream is lost, and the other partition's events come first.
        assert_eq!(begun(&mut window, &["0/1", "1/1"]), 2);
        for position in ["1/1", "1/2", "1/3"] {
            came(&mut window, &[position]);
            assert_eq!(said(&mut window), (vec![], 1), "{position}");
        }
        came(&mut window, &["0/1"]);
        assert_eq!(said(&mut window), (texts(&["0/1"]), 1));
        // What was given in advance is not given again.
        assert_eq!(taken(&mut window), ["1/1", "1/2", "1/3"]);
        assert_eq!(window.outgoing(), None);
    }

    #[test]
    fn without_a_name_it_goes_on_behind_what_has_come() {
        let mut window = Window::new(2, false);
        assert_eq!(window.begin(), Beginning { credits: 2, positions: vec![] });
        window.opened([place("0/5"), place("1/1")]);
        came(&mut window, &["0/5", "0/6"]);
        // Nothing of it is taken yet, and still there is room for one: none would mean any number.
        let positions = texts(&["0/7", "1/1"]);
        assert_eq!(window.begin(), Beginning { credits: 1, positions });
        window.opened([place("0/7"), place("1/1")]);
        came(&mut window, &["1/1"]);
        assert_eq!(taken(&mut window), ["0/5", "0/6", "1/1"]);
    }

    #[test]
    fn a_position_that_is_none_is_no_place() {
        for position in ["", "1", "a/1", "1/"] {
            assert_eq!(Place::parse(position), None, "{position}");
        }
    }
}
