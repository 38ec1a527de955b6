//! Durable steps of an invocation (design section 1): what it has recorded under its keys, kept in its log entry, so
//! that a retry gets it instead of doing it again.
//!
//! Values of `once` and keyed calls share one space of keys: a key names one step of the program, whatever that does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{InvocationId, Number, PartitionId};
use crate::invocation::{Invocation, Outcome, Payload};
use crate::record::RecordedStep;
use crate::snapshot::SavedStep;

/// What the entry of an unfinished invocation keeps under its keys. A step of a chain of tail calls begins with none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    by_key: BTreeMap<Arc<str>, Step>,
    bytes: usize,
}

/// One step.
#[derive(Clone, Debug)]
enum Step {
    /// A value that the program recorded.
    Value(Payload),
    /// A nested call.
    Call(KeyedCall),
}

/// A nested call that its caller's entry keeps.
#[derive(Clone, Debug)]
pub(crate) struct KeyedCall {
    /// The child; its place may differ each time a service is called.
    child: InvocationId,
    number: Number,
    actor: Option<Arc<str>>,
    method: Arc<str>,
    /// Absent while it is under way.
    outcome: Option<Outcome>,
}

/// What is known of a keyed call that a turn makes.
#[derive(Clone, Debug)]
pub(crate) enum Recall {
    /// Nothing: it is to be made.
    New,
    /// It has ended so.
    Ended(InvocationId, Outcome),
    /// The turn is making it already.
    UnderWay,
    /// The key names another step.
    Other,
}

impl Steps {
    /// How many there are, calls under way included.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Bytes of what is kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Values recorded, for the next attempt's program.
    pub(crate) fn values(&self) -> BTreeMap<Arc<str>, Payload> {
        let value = |(key, step): (&Arc<str>, &Step)| match step {
            Step::Value(payload) => Some((key.clone(), payload.clone())),
            Step::Call(_) => None,
        };
        self.by_key.iter().filter_map(value).collect()
    }

    /// The value under a key; `Err` if a call has that key.
    pub(crate) fn value(&self, key: &str) -> Result<Option<&Payload>, ()> {
        match self.by_key.get(key) {
            None => Ok(None),
            Some(Step::Value(payload)) => Ok(Some(payload)),
            Some(Step::Call(_)) => Err(()),
        }
    }

    /// What is known of a call under a key.
    pub(crate) fn recall(
        &self,
        key: &str,
        to: &PartitionId,
        actor: Option<&Arc<str>>,
        method: &str,
    ) -> Recall {
        let call = match self.by_key.get(key) {
            None => return Recall::New,
            Some(Step::Value(_)) => return Recall::Other,
            Some(Step::Call(call)) => call,
        };
        if (&call.child.home.kind, call.actor.as_ref(), &*call.method) != (&to.kind, actor, method)
        {
            return Recall::Other;
        }
        match &call.outcome {
            Some(outcome) => Recall::Ended(call.child.clone(), outcome.clone()),
            None => Recall::UnderWay,
        }
    }

    /// Everything, for a snapshot.
    pub(crate) fn save(&self) -> Vec<SavedStep> {
        // The bytes are counted anew.
        let Self { by_key, bytes: _ } = self;
        let save = |(key, step): (&Arc<str>, &Step)| match step {
            Step::Value(payload) => {
                SavedStep::Value(RecordedStep { key: key.clone(), payload: payload.clone() })
            }
            Step::Call(KeyedCall { child, number, actor, method, outcome }) => SavedStep::Call {
                key: key.clone(),
                child: child.clone(),
                number: *number,
                actor: actor.clone(),
                method: method.clone(),
                outcome: outcome.clone(),
            },
        };
        by_key.iter().map(save).collect()
    }

    /// What a snapshot holds.
    pub(crate) fn restore(saved: Vec<SavedStep>) -> Self {
        let mut steps = Self::default();
        for step in saved {
            match step {
                SavedStep::Value(step) => steps.record(&step),
                SavedStep::Call { key, child, number, actor, method, outcome } => {
                    steps.bytes += outcome.as_ref().map_or(0, |o| key.len() + o.size());
                    let call = KeyedCall { child, number, actor, method, outcome };
                    steps.by_key.insert(key, Step::Call(call));
                }
            }
        }
        steps
    }

    /// A value was recorded: the first one under a key stays.
    pub(crate) fn record(&mut self, step: &RecordedStep) {
        let RecordedStep { key, payload } = step;
        if !self.by_key.contains_key(key) {
            self.bytes += step.size();
            self.by_key.insert(key.clone(), Step::Value(payload.clone()));
        }
    }

    /// A keyed call was made.
    pub(crate) fn call(
        &mut self,
        key: &Arc<str>,
        (to, number): (&PartitionId, Number),
        invocation: &Invocation,
    ) {
        let call = KeyedCall {
            child: InvocationId { home: to.clone(), uuid: invocation.uuid },
            number,
            actor: invocation.actor.clone(),
            method: invocation.method.clone(),
            outcome: None,
        };
        self.by_key.entry(key.clone()).or_insert(Step::Call(call));
    }

    /// A keyed call is settled. Results and application errors are kept; what never ran may be called again (section
    /// 18, decision 8), as a call that was settled without its outcome.
    pub(crate) fn settle(
        &mut self,
        key: &Arc<str>,
        (to, number): (&PartitionId, Number),
        outcome: Option<&Outcome>,
    ) {
        let Some(Step::Call(call)) = self.by_key.get_mut(key) else { return };
        if (&call.child.home, call.number) != (to, number) || call.outcome.is_some() {
            return;
        }
        match outcome.filter(|outcome| is_kept(outcome)) {
            Some(outcome) => {
                self.bytes += key.len() + outcome.size();
                call.outcome = Some(outcome.clone());
            }
            None => {
                self.by_key.remove(key);
            }
        }
    }
}

/// Whether an outcome is a step's result.
pub(crate) fn is_kept(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_) | Outcome::Failed(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Kind, Uuid};
    use crate::invocation::{ApplicationError, Mode, Refusal, Work};

    fn payload(text: &'static str) -> Payload {
        Payload { data: text.into(), content_type: "".into() }
    }

    fn partition(index: u32) -> PartitionId {
        PartitionId::new(Kind::service("s"), index)
    }

    fn invocation(method: &str) -> Invocation {
        Invocation {
            uuid: Uuid(7),
            work: Work::Method,
            mode: Mode::Call,
            actor: None,
            method: method.into(),
            payload: Payload::default(),
            chain: [].into(),
            deadline: None,
            trace: "".into(),
            step: 1,
            home: None,
            retry: None,
            key: None,
            event: None,
        }
    }

    #[test]
    fn the_first_value_under_a_key_stays() {
        let mut steps = Steps::default();
        for text in ["first", "second"] {
            steps.record(&RecordedStep { key: "k".into(), payload: payload(text) });
        }
        assert_eq!(steps.value("k"), Ok(Some(&payload("first"))));
        assert_eq!(steps.values().len(), 1);
        assert!(matches!(steps.recall("k", &partition(0), None, "m"), Recall::Other));
    }

    #[test]
    fn a_call_is_known_by_its_kind_instance_and_method() {
        let mut steps = Steps::default();
        let (key, to) = ("k".into(), partition(0));
        steps.call(&key, (&to, 3), &invocation("m"));
        assert_eq!(steps.value("k"), Err(()));
        assert!(matches!(steps.recall("k", &partition(1), None, "m"), Recall::UnderWay));
        assert!(matches!(steps.recall("k", &to, None, "n"), Recall::Other));
        assert!(matches!(steps.recall("k", &to, Some(&"x".into()), "m"), Recall::Other));
        // Of another number: it is not this one's outcome.
        steps.settle(&key, (&to, 2), Some(&Outcome::Done(payload("wrong"))));
        steps.settle(&key, (&to, 3), Some(&Outcome::Done(payload("right"))));
        steps.settle(&key, (&to, 3), None);
        match steps.recall("k", &to, None, "m") {
            Recall::Ended(child, outcome) => {
                assert_eq!((child.uuid, outcome), (Uuid(7), Outcome::Done(payload("right"))));
            }
            other => panic!("{other:?}"),
        }
        assert!(steps.values().is_empty(), "results of calls are not the program's values");
    }

    #[test]
    fn what_never_ran_is_called_again() {
        let kept = [Outcome::Done(payload("")), Outcome::Failed(ApplicationError::default())];
        let again = [
            Outcome::Expired,
            Outcome::Cancelled,
            Outcome::Withdrawn,
            Outcome::Deadlock("a".into()),
            Outcome::Refused(Refusal::PartitionFull),
        ];
        let cases =
            kept.map(|o| (Some(o), true)).into_iter().chain(again.map(|o| (Some(o), false)));
        for (outcome, is_kept) in cases.chain([(None, false)]) {
            let mut steps = Steps::default();
            let (key, to) = ("k".into(), partition(0));
            steps.call(&key, (&to, 3), &invocation("m"));
            steps.settle(&key, (&to, 3), outcome.as_ref());
            let known = !matches!(steps.recall("k", &to, None, "m"), Recall::New);
            assert_eq!((known, steps.len()), (is_kept, usize::from(is_kept)), "{outcome:?}");
            assert_eq!(steps.bytes() > 0, is_kept);
        }
    }
}
