//! What the clients of a soak do. Each knows what every answer must be, so that one lost or repeated effect shows at
//! once; what no answer tells is compared in the end.

use std::rc::Rc;
use std::time::{Duration, Instant};

use kar_proto::v1::{
    ActorTarget, AwaitRequest, GetAllRequest, InvocationOptions, RetryPolicy, StartRequest, Target,
    TellRequest, await_response,
};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_local};
use tonic::Status;

use super::Soak;
use crate::component::actor;
use crate::errors::unanswered;
use crate::fire::PROGRESS_LIMIT;
use crate::grpc::{json as bytes, value};
use crate::{Random, wait};

/// Vaults that money moves between; an audit goes through all of them.
pub(super) const VAULTS: usize = 6;

/// Clients of each kind of load.
const CLIENTS: u64 = 2;

/// Tells before a call that says how many have come.
const TELLS: u64 = 20;

/// Steps of a relay, and the actors that it goes round.
const RELAY_STEPS: u64 = 12;
const RELAYS: u64 = 3;

/// Longest time that a call or a step works, ms.
const WORK_MAX_MS: u64 = 40;

/// Pause between two audits, each of which holds every vault.
const AUDIT_EVERY: Duration = Duration::from_millis(300);

/// What a vault must hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vault {
    balance: i64,
    changes: u64,
}

impl Soak {
    /// Opens the vaults, with nothing in them.
    pub(super) async fn open_vaults(&self) {
        for vault in 0..VAULTS {
            let id = format!("v{vault}");
            let opened = self.client.call(("Vault", &id), "open", &json!({ "amount": 0 })).await;
            opened.expect("answered").expect("no error");
        }
    }

    /// Starts all clients.
    pub(super) fn begin(self: Rc<Self>, random: &mut Random) -> Vec<JoinHandle<()>> {
        let mut clients = vec![spawn_local(self.clone().audits())];
        for number in 0..CLIENTS {
            clients.push(spawn_local(self.clone().works(number, random.fork())));
            clients.push(spawn_local(self.clone().starts(number, random.fork())));
            clients.push(spawn_local(self.clone().tells(number)));
            clients.push(spawn_local(self.clone().exchanges(random.fork())));
            clients.push(spawn_local(self.clone().relays(number)));
            clients.push(spawn_local(self.clone().errands(number, random.fork())));
            clients.push(spawn_local(self.clone().reads(number)));
            clients.push(spawn_local(self.clone().keyed(number, random.fork())));
            clients.push(spawn_local(self.clone().ears(number)));
            clients.push(spawn_local(self.clone().ringers(number, random.fork())));
            clients.push(spawn_local(self.clone().removals(number)));
        }
        clients
    }

    /// A call; `None`, and a finding, if it failed.
    pub(super) async fn call(
        &self,
        kind: &str,
        id: &str,
        method: &str,
        argument: &Value,
    ) -> Option<Value> {
        match self.client.call((kind, id), method, argument).await {
            Ok(Ok(answer)) => Some(answer),
            other => {
                self.error(&format!("{kind}/{id}.{method}"), &other);
                None
            }
        }
    }

    /// Starts an invocation, and fetches its result.
    async fn start(
        &self,
        target: Target,
        method: &str,
        argument: &Value,
        options: InvocationOptions,
    ) -> Option<Value> {
        let request = StartRequest {
            target: Some(target),
            method: method.into(),
            payload: Some(bytes(argument)),
            options: Some(options),
        };
        let started = self.client.invocation().start(request).await;
        let invocation_id = match started {
            Ok(started) => started.into_inner().invocation_id,
            Err(error) => {
                self.error(method, &error);
                return None;
            }
        };
        let outcome = self.client.invocation().r#await(AwaitRequest { invocation_id }).await;
        match outcome.map(|outcome| outcome.into_inner().result) {
            Ok(Some(await_response::Result::Payload(payload))) => Some(value(&payload)),
            other => {
                self.error(method, &other);
                None
            }
        }
    }

    async fn works(self: Rc<Self>, number: u64, mut random: Random) {
        let id = format!("call-{number}");
        for count in 1.. {
            let argument = work(&id, count, &mut random);
            let answer = self.call("Slow", &id, "work", &argument).await;
            self.counted("calls", &id, count, answer.map(|answer| answer["done"].clone()));
            if self.load.over.get() {
                return;
            }
        }
    }

    async fn starts(self: Rc<Self>, number: u64, mut random: Random) {
        let id = format!("start-{number}");
        for count in 1.. {
            let argument = work(&id, count, &mut random);
            let options = InvocationOptions::default();
            let answer = self.start(actor("Slow", &id), "work", &argument, options).await;
            self.counted("starts", &id, count, answer.map(|answer| answer["done"].clone()));
            if self.load.over.get() {
                return;
            }
        }
    }

    /// What is started again under its key is one invocation: at once, while it runs, and when it has long ended.
    async fn keyed(self: Rc<Self>, number: u64, mut random: Random) {
        let id = format!("keyed-{number}");
        let start = async |(key, argument): &(String, Value)| {
            let idempotency_key = key.clone();
            let options = InvocationOptions { idempotency_key, ..InvocationOptions::default() };
            self.start(actor("Slow", &id), "work", argument, options).await
        };
        let mut earlier: Option<((String, Value), Value)> = None;
        for count in 1.. {
            let keyed = (format!("{id}/{count}"), work(&id, count, &mut random));
            let (answer, again) = tokio::join!(start(&keyed), start(&keyed));
            self.same(&keyed.0, answer.as_ref(), again.as_ref());
            if let Some((keyed, answer)) = &earlier {
                self.same(&keyed.0, Some(answer), start(keyed).await.as_ref());
            }
            self.counted("keyed", &id, count, answer.as_ref().map(|answer| answer["done"].clone()));
            if self.load.over.get() {
                return;
            }
            earlier = answer.map(|answer| (keyed, answer));
        }
    }

    /// Answers of one invocation name the same attempt; of one without an answer it was noted that there is none.
    fn same(&self, key: &str, one: Option<&Value>, again: Option<&Value>) {
        if let (Some(one), Some(again)) = (one, again)
            && one != again
        {
            self.error(&format!("key {key}"), &(one, again));
        }
    }

    /// P7: a call finds every tell that was sent before it.
    async fn tells(self: Rc<Self>, number: u64) {
        let id = format!("tell-{number}");
        let mut count = 0;
        while !self.load.over.get() {
            for _ in 0..TELLS {
                self.tell_to_count(&id).await;
            }
            count += TELLS + 1;
            let answer = self.call("Echo", &id, "count", &Value::Null).await;
            self.counted("tells", &id, count, answer);
        }
    }

    /// Tells an actor to count once more.
    pub(super) async fn tell_to_count(&self, id: &str) {
        let request = TellRequest {
            target: Some(actor("Echo", id)),
            method: "count".into(),
            ..TellRequest::default()
        };
        if let Err(error) = self.client.invocation().tell(request).await {
            self.error("tell", &error);
        }
    }

    /// A read from outside finds what the last call has made of the state.
    async fn reads(self: Rc<Self>, number: u64) {
        let id = format!("read-{number}");
        let mut count = 0;
        while !self.load.over.get() {
            count += 1;
            self.call("Echo", &id, "count", &Value::Null).await;
            if let Some(state) = self.state_of("Echo", &id).await {
                self.counted("reads", &id, count, Some(state["count"].clone()));
            }
        }
    }

    async fn exchanges(self: Rc<Self>, mut random: Random) {
        while !self.load.over.get() {
            let pick = |bound: usize, random: &mut Random| {
                usize::try_from(random.below(bound as u64)).expect("small")
            };
            let from = pick(VAULTS - 1, &mut random);
            let to = from + 1 + pick(VAULTS - 1 - from, &mut random);
            let amount = i64::try_from(random.below(100)).expect("small") - 50;
            let argument = json!({ "with": format!("v{to}"), "amount": amount });
            self.call("Vault", &format!("v{from}"), "exchange", &argument).await;
            for (vault, amount) in [(from, -amount), (to, amount)] {
                let vault = &mut self.vaults.borrow_mut()[vault];
                (vault.balance, vault.changes) = (vault.balance + amount, vault.changes + 1);
            }
            self.done("exchanges");
        }
    }

    /// Whatever is moved between vaults, there is nothing in all of them together.
    async fn audits(self: Rc<Self>) {
        let vaults: Vec<_> = (0..VAULTS).map(|vault| format!("v{vault}")).collect();
        let right = json!({ "vaults": VAULTS, "sum": 0 });
        for number in 0.. {
            let audit = format!("audit-{number}");
            let argument = json!({ "audit": audit, "vaults": vaults, "milliseconds": 5 });
            if let Some(answer) = self.call("Auditor", "a", "audit", &argument).await
                && answer != right
            {
                self.error(&audit, &answer);
            }
            self.done("audits");
            if self.load.over.get() {
                return;
            }
            crate::wait::moment(AUDIT_EVERY).await;
        }
    }

    async fn relays(self: Rc<Self>, number: u64) {
        while !self.load.over.get() {
            let argument = json!({ "left": RELAY_STEPS, "at": number, "sum": 0 });
            let id = format!("r{}", number % RELAYS);
            if let Some(sum) = self.call("Relay", &id, "pass", &argument).await
                && sum != json!(RELAY_STEPS * (RELAY_STEPS + 1) / 2)
            {
                self.error("relay", &sum);
            }
            self.done("relays");
        }
    }

    /// Durable steps, a keyed call, and errors that are tried again.
    async fn errands(self: Rc<Self>, number: u64, mut random: Random) {
        let millis = |ms| Duration::from_millis(ms).try_into().ok();
        let id = format!("e{number}");
        for count in 1.. {
            let argument = json!({
                "errand": id,
                "run": format!("{id}-{count}"),
                "fails": random.below(2),
                "milliseconds": random.below(WORK_MAX_MS),
            });
            let policy = RetryPolicy {
                max_attempts: 10,
                initial_backoff: millis(10),
                max_backoff: millis(50),
                multiplier: 2.0,
            };
            let options =
                InvocationOptions { retry_policy: Some(policy), ..InvocationOptions::default() };
            let answer = self.start(actor("Errand", &id), "run", &argument, options).await;
            self.counted("errands", &id, count, answer.map(|answer| answer["done"].clone()));
            if self.load.over.get() {
                return;
            }
        }
    }

    /// Something was finished whose answer says how many of them took effect so far.
    pub(super) fn counted(
        &self,
        kind: &'static str,
        id: &str,
        expected: u64,
        answer: Option<Value>,
    ) {
        match answer.as_ref().map(Value::as_u64) {
            Some(Some(found)) => self.expect(id, expected, found),
            Some(None) => self.error(id, &answer),
            // It was noted that there is none.
            None => {}
        }
        self.done(kind);
    }

    /// Compares what no answer has told.
    pub(super) async fn judge(&self) {
        let of = |kind: &str| self.finished.borrow().get(kind).copied().unwrap_or_default();
        let vaults = *self.vaults.borrow();
        for (number, vault) in vaults.iter().enumerate() {
            let id = format!("v{number}");
            let Some(state) = self.state_of("Vault", &id).await else { continue };
            self.expect(&id, vault.changes, state["changes"].as_u64().unwrap_or_default());
            if state["balance"] != json!(vault.balance) {
                self.error(&id, &(vault, &state));
            }
        }
        let mut steps = 0;
        for relay in 0..RELAYS {
            let state = self.state_of("Relay", &format!("r{relay}")).await.unwrap_or_default();
            steps += state["steps"].as_u64().unwrap_or_default();
        }
        self.expect("steps of relays", RELAY_STEPS * of("relays"), steps);
        let mut bought = 0;
        for shop in ["s0", "s1"] {
            let state = self.state_of("Shop", shop).await.unwrap_or_default();
            let counts = state.as_object().cloned().unwrap_or_default();
            bought += counts.values().filter_map(Value::as_u64).sum::<u64>();
        }
        self.expect("purchases", of("errands"), bought);
    }

    pub(super) async fn state_of(&self, kind: &str, id: &str) -> Option<Value> {
        let actor = ActorTarget { r#type: kind.into(), id: id.into() };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let read = async || self.client.actor_state().get_all(request.clone()).await;
        let all = self.asked(&format!("state of {kind}/{id}"), read).await?.into_inner();
        Some(all.entries.iter().map(|(key, payload)| (key.clone(), value(payload))).collect())
    }

    /// The state of an actor when it is as it is to be, or when it has had long enough for that: to be judged.
    pub(super) async fn state_when(
        &self,
        kind: &str,
        id: &str,
        ready: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + PROGRESS_LIMIT;
        wait::until("the state of an actor", 3 * PROGRESS_LIMIT, async || {
            let state = self.state_of(kind, id).await?;
            (ready(&state) || Instant::now() > deadline).then_some(state)
        })
        .await
    }

    /// Asks for what changes nothing, again while there is nobody who could answer: on a machine that does much else
    /// owners may be dead for long. `None`, and a finding, if there is another error.
    pub(super) async fn asked<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Option<T> {
        let deadline = Instant::now() + PROGRESS_LIMIT;
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(status) if unanswered(&status) && Instant::now() < deadline => {
                    self.asked_again.set(self.asked_again.get() + 1);
                }
                Err(status) => {
                    self.error(what, &status);
                    return None;
                }
            }
        }
    }
}

/// The argument of `Slow.work`.
fn work(id: &str, count: u64, random: &mut Random) -> Value {
    json!({ "key": format!("{id}-{count}"), "milliseconds": random.below(WORK_MAX_MS) })
}
