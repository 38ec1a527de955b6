//! The clients' side of a component: root operations, given up or waited for.

use kar_core::effect::Response;
use kar_core::event::{Event, Operation, TurnResult};
use kar_core::ids::{InvocationId, RequestId, SessionId, Uuid};
use kar_core::invocation::{Mode, Outcome};
use kar_core::keys::RequestKey;

use crate::history::{Answer, Req, Waiter};
use crate::plan::{ClientOp, MS, ReadOp};
use crate::reading::Reading;
use crate::rng::{Rng, join};
use crate::script::{Spec, number_payload};
use crate::world::{Due, Input, World};

impl World {
    /// A direct turn ends.
    pub(crate) fn direct_done(&mut self, slot: usize, session: SessionId, turn: u64) {
        if self.slots[slot].app.session == Some(session) {
            let outcome = Outcome::Done(number_payload(&self.plan.names, turn));
            let result = TurnResult::Ended(outcome);
            self.app_says(slot, Input::Event(Event::DirectResult { turn, result }));
        }
    }

    /// A client makes its request, through whichever component can.
    pub(crate) fn client(&mut self, index: usize) {
        let op = self.plan.ops[index].clone();
        let count = self.slots.len();
        let usable = (0..count)
            .map(|i| (op.slot + i) % count)
            .find(|s| self.slots[*s].app.session.is_some() && !self.slots[*s].leaving());
        let Some(slot) = usable else {
            let at = self.now + 20 * MS;
            return self.push(at, Due::Client(index));
        };
        let req = self.request(slot, index as u64, &op);
        if self.history.reqs[req].keyed {
            // Its client is impatient, and asks somebody else.
            let mut rng = Rng::new(self.history.reqs[req].tag);
            for _ in 0..rng.range(0, 3) {
                let (slot, at) = (rng.index(count), self.now + rng.range(0, 600 * MS));
                self.push(at, Due::Again { index, slot });
            }
        }
    }

    /// A client sends again what has an idempotency key.
    pub(crate) fn client_again(&mut self, index: usize, slot: usize) {
        let op = self.plan.ops[index].clone();
        if self.slots[slot].app.session.is_some() && !self.slots[slot].leaving() {
            self.request(slot, index as u64, &op);
        }
    }

    /// Makes a client's operation at a slot; says which request it is.
    pub(crate) fn request(&mut self, slot: usize, number: u64, op: &ClientOp) -> usize {
        let names = &self.plan.names;
        let tag = join(self.plan.seed, number + 1);
        let steady = tag & 3 != 0;
        let spec = Spec { tag, fuel: op.fuel, steady, ..Spec::default() };
        let deadline = op.deadline_us.map(|us| self.millis(self.now + us));
        let is_actor = op.mode.is_some() && op.actor.is_some();
        let (method, trace) = (names.method_of(spec.tag, is_actor), names.empty.clone());
        let payload = spec.payload(names);
        let mut keyed = Rng::new(tag ^ 0x6b65_7973);
        let has_key = op.mode.is_some() && keyed.chance(self.plan.profile.keyed_roots);
        let key = has_key.then(|| {
            let uuid = Uuid(u128::from(keyed.next()) << 64 | u128::from(keyed.next()));
            Box::new(RequestKey { uuid, digest: u128::from(tag) })
        });
        let mut delivered = Rng::new(tag ^ 0x6576_656e_7473);
        let delivers = op.mode == Some(Mode::Tell)
            && !has_key
            && delivered.chance(self.plan.profile.deliveries);
        let operation = match op.mode {
            Some(_) if delivers => Operation::Deliver {
                target: names.target(op.kind, op.actor),
                method,
                payload,
                deadline,
                retry: self.plan.policies.of_tag(tag),
                origin: self.origin(tag),
                key: None,
            },
            Some(mode) => Operation::Invoke {
                turn: None,
                mode,
                target: names.target(op.kind, op.actor),
                method,
                payload,
                deadline,
                trace,
                step_key: None,
                retry: self.plan.policies.of_tag(tag),
                key,
            },
            None if let (Some(remind), Some(actor)) = (&op.remind, op.actor) => {
                let (kind, actor) = (names.kinds[op.kind].clone(), names.actors[actor].clone());
                let now = self.millis(self.now);
                remind.with_tag(tag).operation(names, now, None, (kind, actor))
            }
            None if let (true, Some(actor)) = (op.removes, op.actor) => {
                let (kind, actor) = (names.kinds[op.kind].clone(), names.actors[actor].clone());
                Operation::RemoveActor { kind, actor }
            }
            None => {
                let kind = names.kinds[op.kind].clone();
                Operation::InvokeDirect { kind, method, payload, trace }
            }
        };
        let req = self.open_request(slot, tag, op, None);
        self.history.reqs[req].keyed = has_key;
        self.say(|| format!("n{slot} client q{req} {operation:?}"));
        self.app_says(slot, Input::Ask { waiter: Waiter::Client(req), operation });
        if let Some(us) = op.abandon_us {
            let at = self.now + us;
            self.push(at, Due::Abandon { req });
        }
        req
    }

    pub(crate) fn open_request(
        &mut self,
        slot: usize,
        tag: u64,
        op: &ClientOp,
        awaits: Option<InvocationId>,
    ) -> usize {
        let session = self.slots[slot].app.session.expect("only usable slots are asked");
        self.history.reqs.push(Req {
            slot,
            node: self.slots[slot].id,
            session,
            mode: if awaits.is_some() { None } else { op.mode },
            awaits,
            control: None,
            reads: None,
            remind: op.remind.as_ref().map(|remind| remind.with_tag(tag)),
            removes: op.removes,
            subscription: None,
            tag,
            kind: op.kind,
            actor: op.actor,
            deadline: op.deadline_us.is_some(),
            keyed: false,
            arrived: None,
            abandoned: false,
            answers: Vec::new(),
            await_by: op.await_by,
        });
        self.history.reqs.len() - 1
    }

    /// A client gives up.
    pub(crate) fn abandon(&mut self, req: usize) {
        let request = &self.history.reqs[req];
        let slot = request.slot;
        let same = self.slots[slot].app.session == Some(request.session);
        if !same || !request.answers.is_empty() || request.abandoned {
            return;
        }
        let Some(number) = self.slots[slot].waiters.iter().position(|w| *w == Waiter::Client(req))
        else {
            return;
        };
        self.history.reqs[req].abandoned = true;
        let request = RequestId(number as u64);
        self.app_says(slot, Input::Event(Event::Abandoned { request }));
    }

    pub(crate) fn client_hears(&mut self, req: usize, answer: &Answer) {
        let request = &self.history.reqs[req];
        if let (Some(Mode::Call), Ok(Response::Outcome { .. }), Some(actor)) =
            (request.mode, answer, request.actor)
            && self.rng.chance(self.plan.profile.read_after)
        {
            let kind = request.kind;
            let reading = Reading::draw(&mut self.rng, self.plan.names.keys.len(), 300);
            let (slot, at) = (self.rng.index(self.slots.len()), self.now + self.rng.range(0, MS));
            self.push(at, Due::Read(ReadOp { at, slot, kind, actor, reading }));
        }
        if self.history.reqs[req].mode != Some(Mode::Start) {
            return;
        }
        let request = &self.history.reqs[req];
        if let Ok(Response::Accepted { .. }) = answer {
            let (slot, after) = request.await_by;
            let at = self.now + after;
            self.push(at, Due::Await { req, slot });
        }
    }

    /// A client asks for the outcome of what it started.
    pub(crate) fn await_start(&mut self, req: usize, slot: usize) {
        let request = self.history.reqs[req].clone();
        let Some((_, Ok(Response::Accepted { invocation }))) = request.answers.first() else {
            return;
        };
        if self.slots[slot].app.session.is_none() || self.slots[slot].leaving() {
            let slot = (slot + 1) % self.slots.len();
            let at = self.now + 20 * MS;
            return self.push(at, Due::Await { req, slot });
        }
        let op = ClientOp {
            at: self.now,
            slot,
            mode: None,
            remind: None,
            removes: false,
            kind: request.kind,
            actor: request.actor,
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (0, 0),
        };
        let invocation = invocation.clone();
        let req = self.open_request(slot, request.tag, &op, Some(invocation.clone()));
        self.say(|| format!("n{slot} client q{req} await {invocation}"));
        let waiter = Waiter::Client(req);
        self.app_says(slot, Input::Ask { waiter, operation: Operation::Await { invocation } });
    }
    /// A client reads an actor's state, through whichever component can.
    pub(crate) fn read_actor(&mut self, read: ReadOp) {
        let ReadOp { at: _, slot, kind, actor, reading } = read;
        if self.slots[slot].app.session.is_none() {
            let (at, slot) = (self.now + 20 * MS, (slot + 1) % self.slots.len());
            return self.push(at, Due::Read(ReadOp { at, slot, ..read }));
        }
        let op = ClientOp {
            at: self.now,
            slot,
            mode: None,
            remind: None,
            removes: false,
            kind,
            actor: Some(actor),
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (0, 0),
        };
        let req = self.open_request(slot, 0, &op, None);
        self.history.reqs[req].reads = Some(reading);
        self.say(|| format!("n{slot} client q{req} reads {read:?}"));
        let names = &self.plan.names;
        let select = reading.select(names);
        let (kind, actor) = (names.kinds[kind].clone(), names.actors[actor].clone());
        let operation = Operation::StateOf { kind, actor, select };
        self.app_says(slot, Input::Ask { waiter: Waiter::Client(req), operation });
    }
}
