//! Subscriptions: what clients do about them, and the topic that they read. Its events come from outside; reading is
//! slow, fails, and is repeated; events go by retention, and the topic is created anew under its name.
//!
//! Longer than most: what is drawn and what carries it out are read together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kar_core::event::{Event, Operation, SubscriptionsOf};
use kar_core::events::{CloudEvent, EventTime, Filter};
use kar_core::ids::Offset;
use kar_core::invocation::{Payload, RetryPolicy};
use kar_core::subscription::{
    FetchId, FetchResult, FetchedEvent, Instance, SubscriptionChange, SubscriptionSpec,
    SubscriptionStart, SubscriptionTarget, TopicRef,
};

use crate::history::{Seen, Waiter};
use crate::plan::{ACTORS, ClientOp, HORIZON, MS, Names, Profile, Us};
use crate::rng::{Rng, join};
use crate::script::Spec;
use crate::world::{Due, Input, World};

/// Partitions of the topic.
const PARTITIONS: u32 = 2;
/// Subscriptions that clients name.
const NAMES: usize = 3;
/// The topic's name.
const TOPIC: &str = "e";
/// The attribute that names an instance.
pub(crate) const WHO: &str = "who";

/// What happens about subscriptions in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribing {
    /// Events that are published when.
    pub(crate) events: Vec<(Us, EventPlan)>,
    /// What clients do when.
    pub(crate) ops: Vec<(Us, SubOp)>,
    /// What happens to the topic when.
    pub(crate) faults: Vec<(Us, SourceFault)>,
    /// Chance that reading fails or is late, ‰.
    trouble: u32,
    /// In directed schedules: how the settings differ from those drawn.
    adjust: Option<fn(&mut SubscriptionSpec)>,
}

/// An event that somebody outside publishes.
#[derive(Clone, Debug)]
pub(crate) struct EventPlan {
    partition: u32,
    tag: u64,
    /// The instance that it names; none: it names nobody.
    who: Option<usize>,
    /// Its type.
    odd: bool,
    fuel: u8,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SubOp {
    slot: usize,
    pub(crate) name: usize,
    pub(crate) what: SubWhat,
}

/// And how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SubWhat {
    /// With one of two settings.
    Subscribe(u64),
    Change(SubscriptionChange),
    List,
}

/// Something happens to the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SourceFault {
    /// It is deleted, and another one is created under its name.
    Recreated,
    /// Nobody can read it for so long.
    Away(Us),
    /// Some of the oldest events go.
    Retention,
}

/// The topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    created: u64,
    away: Us,
    partitions: [SourcePartition; PARTITIONS as usize],
    /// Reads that wait for events.
    waiting: BTreeMap<u64, Fetching>,
    next_waiting: u64,
}

#[derive(Clone, Debug, Default)]
struct SourcePartition {
    /// Events that are gone.
    gone: usize,
    events: Vec<(EventPlan, CloudEvent)>,
}

/// A read on its way, or waiting.
#[derive(Clone, Debug)]
pub(crate) struct Fetching {
    slot: usize,
    inst: u64,
    id: FetchId,
    topic_id: Arc<str>,
    from: Offset,
    /// Events and bytes, though one event may be longer.
    max: (usize, usize),
}

impl SourcePartition {
    fn start(&self) -> Offset {
        self.gone as Offset + 1
    }

    fn end(&self) -> Offset {
        self.events.len() as Offset + 1
    }
}

impl Source {
    fn id(&self) -> Arc<str> {
        format!("{TOPIC}#{}", self.created).into()
    }

    /// Where a partition of a topic ends, if the topic exists.
    pub(crate) fn end_of(&self, id: &str, partition: usize) -> Option<Offset> {
        (*self.id() == *id).then(|| self.partitions[partition].end())
    }
}

/// Draws what happens; apart, so that the rest of a seed's plan does not depend on it.
pub(crate) fn draw(seed: u64, profile: &Profile, slots: usize) -> Subscribing {
    let mut rng = Rng::new(seed ^ 0x0073_7562_7363);
    let count = rng.range(2, profile.events_max.max(2));
    let event = |rng: &mut Rng, number: u64| {
        let at = rng.range(5 * MS, HORIZON);
        let who = (!rng.chance(60)).then(|| if rng.chance(400) { 0 } else { rng.index(ACTORS) });
        let plan = EventPlan {
            partition: rng.index(PARTITIONS as usize) as u32,
            tag: join(join(seed, 0x0065_7665_6e74), number),
            who,
            odd: rng.chance(400),
            fuel: if rng.chance(250) { 2 } else { 0 },
        };
        (at, plan)
    };
    let events = (0..count).map(|number| event(&mut rng, number)).collect();
    let names = rng.range(1, NAMES as u64) as usize;
    let mut ops = Vec::new();
    for name in 0..names {
        let at = if rng.chance(600) { rng.range(5 * MS, 60 * MS) } else { rng.range(0, HORIZON) };
        let mut op = |at, what| ops.push((at, SubOp { slot: rng.index(slots), name, what }));
        op(at, SubWhat::Subscribe(0));
    }
    for _ in 0..rng.range(0, profile.sub_ops_max) {
        let what = match rng.below(10) {
            0..=2 => SubWhat::Change(SubscriptionChange::Pause),
            3..=5 => SubWhat::Change(SubscriptionChange::Resume),
            6 => SubWhat::Change(SubscriptionChange::Unsubscribe),
            7 => SubWhat::Subscribe(1),
            8 => SubWhat::Subscribe(0),
            _ => SubWhat::List,
        };
        let (at, name, slot) = (rng.range(20 * MS, HORIZON), rng.index(names), rng.index(slots));
        ops.push((at, SubOp { slot, name, what }));
    }
    let fault = |rng: &mut Rng| match rng.below(4) {
        0 => SourceFault::Recreated,
        1 => SourceFault::Retention,
        _ => SourceFault::Away(rng.range(10 * MS, 300 * MS)),
    };
    let faults = (0..rng.range(0, profile.source_faults_max))
        .map(|_| (rng.range(30 * MS, HORIZON), fault(&mut rng)))
        .collect();
    Subscribing { events, ops, faults, trouble: profile.topic_trouble, adjust: None }
}

/// For a directed schedule: one subscription to actors of a type by what events name, and events for these instances;
/// all of it when the schedule says so.
pub(crate) fn directed(who: &[usize]) -> Subscribing {
    let event = |(number, who): (u64, &usize)| EventPlan {
        partition: 0,
        tag: join(0x6469_7265, number),
        who: Some(*who),
        odd: false,
        fuel: 0,
    };
    let events = (0..).zip(who).map(|event_of| (Us::MAX, event(event_of))).collect();
    let op = SubOp { slot: 0, name: 0, what: SubWhat::Subscribe(0) };
    let adjust: fn(&mut SubscriptionSpec) = |spec| {
        let instance = Instance::Attribute(WHO.into());
        spec.target = SubscriptionTarget::Actor { name: "A".into(), instance };
        (spec.filter, spec.in_flight) = (None, 3);
        spec.retry = Some(RetryPolicy {
            attempts_max: 3,
            initial_ms: 100,
            max_ms: 100,
            multiplier_percent: 100,
        });
        spec.dead_letter =
            Some(TopicRef { name: "dead".into(), id: DEAD_LETTERS.into(), partitions: 1 });
    };
    let ops = vec![(Us::MAX, op)];
    Subscribing { events, ops, adjust: Some(adjust), ..Subscribing::default() }
}

/// Where dead letters go while that topic is the first of its name.
const DEAD_LETTERS: &str = "t2#0";

/// The name of a subscription.
pub(crate) fn name_of(name: usize) -> Arc<str> {
    format!("u{name}").into()
}

/// The tag of an event's delivery for a subscription: no two have the same, and none stands for a shared method.
pub(crate) fn delivery_tag(names: &Names, event: u64, subscription: u128) -> u64 {
    let mut tag = join(event, subscription as u64 ^ (subscription >> 64) as u64);
    while names.is_shared(tag) {
        tag = join(tag, 1);
    }
    tag
}

/// The tag that an event carries as its id.
pub(crate) fn tag_of(event: &CloudEvent) -> u64 {
    event.id.parse().unwrap_or_default()
}

impl World {
    /// Somebody publishes an event.
    pub(crate) fn source_event(&mut self, index: usize) {
        let plan = self.plan.subscribing.events[index].1.clone();
        let mut attributes = BTreeMap::new();
        if let Some(who) = plan.who {
            attributes.insert(WHO.to_owned(), self.plan.names.actors[who].to_string());
        }
        let event = CloudEvent {
            id: plan.tag.to_string(),
            source: "/s".into(),
            kind: if plan.odd { "odd" } else { "even" }.into(),
            subject: String::new(),
            time: EventTime::default(),
            data_schema: String::new(),
            data: Payload::default(),
            attributes,
        };
        let (id, index) = (self.source.id(), plan.partition);
        let partition = &mut self.source.partitions[index as usize];
        let offset = partition.end();
        partition.events.push((plan, event.clone()));
        self.say(|| format!("topic {id}/{index} has event {} @{offset}", event.id));
        self.note(Seen::SourceEvent { id: id.clone(), partition: index, event });
        self.serve_waiting();
    }

    /// Answers reads for which there is something by now.
    fn serve_waiting(&mut self) {
        let source = &self.source;
        let has_more = |fetch: &Fetching| {
            let (id, index) = (self.meant(&fetch.topic_id), fetch.id.topic_partition as usize);
            source.end_of(&id, index).is_none_or(|end| fetch.from < end)
        };
        let ready: Vec<_> =
            source.waiting.iter().filter(|(_, f)| has_more(f)).map(|(n, _)| *n).collect();
        for number in ready {
            if let Some(fetch) = self.source.waiting.remove(&number) {
                self.answer_fetch(fetch, false);
            }
        }
    }

    /// A read goes to the topic.
    pub(crate) fn fetch(
        &mut self,
        slot: usize,
        id: FetchId,
        topic_id: Arc<str>,
        from: Offset,
        max: (usize, usize),
    ) {
        let inst = self.slots[slot].inst;
        let trouble = self.faults_on && self.rng.chance(self.plan.subscribing.trouble);
        let late = if trouble { self.rng.range(MS, 700 * MS) } else { 0 };
        let at = self.now + self.rng.range(50, 600) + self.hiccup() + late;
        let fails = trouble && self.rng.chance(500);
        self.say(|| format!("n{slot} reads {topic_id} {id:?} from {from}, fails={fails}"));
        self.note(Seen::Reading { node: self.slots[slot].id, id: id.clone(), is_open: true });
        let fetch = Fetching { slot, inst, id, topic_id, from, max };
        self.push(at, Due::Fetch { fetch, fails });
    }

    /// A read is not wanted any more. One that has not arrived yet is answered for nothing.
    pub(crate) fn stop_fetch(&mut self, slot: usize, id: &FetchId) {
        let inst = self.slots[slot].inst;
        let is_it = |f: &Fetching| f.slot == slot && f.inst == inst && f.id == *id;
        self.source.waiting.retain(|_, fetch| !is_it(fetch));
        self.note(Seen::Reading { node: self.slots[slot].id, id: id.clone(), is_open: false });
    }

    /// It arrives.
    pub(crate) fn at_source(&mut self, fetch: Fetching, fails: bool) {
        let away = self.source.away > self.now && self.faults_on;
        if fails || away {
            return self.answer_fetch(fetch, true);
        }
        let index = fetch.id.topic_partition as usize;
        let end = self.source.end_of(&self.meant(&fetch.topic_id), index);
        if end.is_none_or(|end| fetch.from < end) {
            return self.answer_fetch(fetch, false);
        }
        self.source.next_waiting += 1;
        let number = self.source.next_waiting;
        let at = self.now + self.rng.range(100 * MS, 900 * MS);
        self.source.waiting.insert(number, fetch);
        self.push(at, Due::FetchOver { number });
    }

    /// Nothing came for a read in time.
    pub(crate) fn fetch_over(&mut self, number: u64) {
        if let Some(fetch) = self.source.waiting.remove(&number) {
            self.answer_fetch(fetch, false);
        }
    }

    /// The id that somebody means who names the topic.
    fn meant(&self, id: &Arc<str>) -> Arc<str> {
        // Nobody asks by the name unless a rule is off: then whichever has it is read.
        if **id == *TOPIC { self.source.id() } else { id.clone() }
    }

    fn answer_fetch(&mut self, fetch: Fetching, fails: bool) {
        let Fetching { slot, inst, id, topic_id, from, max } = fetch;
        if self.slots[slot].inst != inst || self.slots[slot].node.is_none() {
            return;
        }
        let result = if fails && id.serial.is_multiple_of(4) {
            // What a newer version has published, say, until this one is replaced.
            FetchResult::Unreadable(from)
        } else if fails {
            FetchResult::Unavailable
        } else if self.meant(&topic_id) != self.source.id() {
            FetchResult::Gone
        } else {
            let partition = &self.source.partitions[id.topic_partition as usize];
            let (start, end) = (partition.start(), partition.end());
            let first = from.max(start);
            let mut bytes = 0;
            let events: Vec<_> = (first..end)
                .take(max.0)
                .map(|offset| {
                    let (plan, event) = &partition.events[offset as usize - 1];
                    let tag = delivery_tag(&self.plan.names, plan.tag, id.subscription.0);
                    let spec = Spec { tag, fuel: plan.fuel, steady: true, ..Spec::default() };
                    let stored: Bytes = spec.payload(&self.plan.names).data;
                    FetchedEvent { offset, event: event.clone(), stored }
                })
                .take_while(|event| {
                    let fits = bytes == 0 || bytes + event.stored.len() <= max.1;
                    bytes += event.stored.len();
                    fits
                })
                .collect();
            let next = events.last().map_or(first, |event| event.offset + 1);
            FetchResult::Events { events, next, start, end }
        };
        let late = self.faults_on && self.rng.chance(self.plan.subscribing.trouble);
        let more = if late { self.rng.range(MS, 500 * MS) } else { 0 };
        let at = self.now + self.rng.range(50, 400) + self.hiccup() + more;
        self.note(Seen::Reading { node: self.slots[slot].id, id: id.clone(), is_open: false });
        let input = Input::Event(Event::Fetched { id, result });
        self.push(at, Due::Input { slot, inst, input });
    }

    /// Something happens to the topic.
    pub(crate) fn source_fault(&mut self, index: usize) {
        if !self.faults_on {
            return;
        }
        let fault = self.plan.subscribing.faults[index].1;
        self.say(|| format!("FAULT topic {fault:?}"));
        match fault {
            SourceFault::Away(us) => self.source.away = self.now + us,
            SourceFault::Recreated => self.recreate_source(),
            SourceFault::Retention => {
                let (id, index) = (self.source.id(), self.rng.index(PARTITIONS as usize));
                let partition = &mut self.source.partitions[index];
                let left = partition.events.len() - partition.gone;
                partition.gone += self.rng.range(0, left as u64) as usize;
                let (index, start) = (index as u32, partition.start());
                self.note(Seen::SourceTrimmed { id, partition: index, start });
            }
        }
    }

    /// The topic is deleted, and another one is created under its name.
    pub(crate) fn recreate_source(&mut self) {
        let id = self.source.id();
        self.source.created += 1;
        self.source.partitions = Default::default();
        self.note(Seen::TopicGone { id });
        self.serve_waiting();
    }

    /// What a client asks for when it subscribes, as its driver finds the topic.
    fn sub_spec(&self, name: usize, variant: u64) -> SubscriptionSpec {
        let names = &self.plan.names;
        let mut rng = Rng::new(join(join(self.plan.seed, 0x7370_6563), join(name as u64, variant)));
        let target = draw_target(&mut rng, names);
        let exact = |kind: &str| Filter::Exact(vec![("type".to_owned(), kind.to_owned())]);
        let filter = match rng.below(4) {
            0 => Some(exact("odd")),
            1 => Some(Filter::Not(Box::new(exact("odd")))),
            _ => None,
        };
        let topic = TopicRef { name: TOPIC.into(), id: self.source.id(), partitions: PARTITIONS };
        let start = match rng.below(3) {
            0 => SubscriptionStart::Latest,
            _ => SubscriptionStart::Earliest,
        };
        let offset = |partition: &SourcePartition| match start {
            SubscriptionStart::Latest => partition.end(),
            _ => partition.start(),
        };
        let dead_letter = rng.chance(500).then(|| {
            let place = self.topics.dead_letters();
            TopicRef { name: "dead".into(), id: place.id, partitions: 1 }
        });
        let mut spec = SubscriptionSpec {
            name: name_of(name),
            topic,
            target,
            method: names.method.clone(),
            filter,
            start,
            offsets: self.source.partitions.iter().map(offset).collect(),
            in_flight: rng.range(1, 5) as u32,
            retry: self.plan.policies.of_tag(rng.next()),
            dead_letter,
        };
        if let Some(adjust) = self.plan.subscribing.adjust {
            adjust(&mut spec);
        }
        spec
    }

    /// A client does something about subscriptions, through whichever component can.
    pub(crate) fn sub_op(&mut self, index: usize) {
        let op = self.plan.subscribing.ops[index].1;
        let count = self.slots.len();
        let usable = (0..count)
            .map(|i| (op.slot + i) % count)
            .find(|s| self.slots[*s].app.session.is_some() && !self.slots[*s].leaving());
        let Some(slot) = usable else {
            let at = self.now + 20 * MS;
            return self.push(at, Due::SubOp(index));
        };
        let name = name_of(op.name);
        let operation = match op.what {
            SubWhat::Subscribe(variant) => {
                Operation::Subscribe { spec: Arc::new(self.sub_spec(op.name, variant)) }
            }
            SubWhat::Change(change) => Operation::ChangeSubscription { name, change },
            SubWhat::List => Operation::Subscriptions { of: SubscriptionsOf::Name(name) },
        };
        let client = ClientOp {
            at: self.now,
            slot,
            mode: None,
            remind: None,
            removes: false,
            kind: 0,
            actor: None,
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (0, 0),
        };
        let req = self.open_request(slot, 0, &client, None);
        self.history.reqs[req].subscription = Some(op);
        self.say(|| format!("n{slot} client q{req} {operation:?}"));
        self.app_says(slot, Input::Ask { waiter: Waiter::Client(req), operation });
    }

    /// Whether every subscription has come to the end of its topic.
    pub(crate) fn has_delivered(&self) -> bool {
        let nodes = self.slots.iter().filter_map(|slot| slot.node.as_ref());
        let all = nodes.flat_map(|node| node.subscriptions());
        all.filter(|view| !view.paused && !view.topic_gone).all(|view| {
            let id = &view.subscription.spec.topic.id;
            view.partitions.iter().enumerate().all(|(index, progress)| {
                let end = self.source.end_of(id, index);
                // Of a topic that is gone it has to be known.
                end.is_some_and(|end| progress.floor >= end)
            })
        })
    }
}

fn draw_target(rng: &mut Rng, names: &Names) -> SubscriptionTarget {
    let kind = rng.index(names.targets());
    let name = names.kinds[kind].name.clone();
    if names.kinds[kind].class == kar_core::ids::Class::Service {
        let affinity = rng.chance(500).then(|| WHO.into());
        return SubscriptionTarget::Service { name, affinity };
    }
    let instance = if rng.chance(300) {
        Instance::Fixed(names.actors[rng.index(ACTORS)].clone())
    } else {
        Instance::Attribute(WHO.into())
    };
    SubscriptionTarget::Actor { name, instance }
}
