//! Kinds that the membership does not register: whoever wants one is told so (P9).

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, RefusedKind, RequestError, Turn};
use kar_core::event::{Operation, TailCall, TurnResult};
use kar_core::ids::{Kind, RequestId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Target};
use kar_core::limits::LimitHit;

use script::{Script, done, text};

fn account() -> Kind {
    Kind::actor("Account")
}

fn refused(name: &str) -> RefusedKind {
    RefusedKind { kind: Kind::service(name), hit: LimitHit { name: "kinds_max", limit: 3 } }
}

fn invoke(script: &mut Script, turn: Option<&Turn>, mode: Mode, name: &str) -> RequestId {
    script.request(Operation::Invoke {
        turn: turn.map(|turn| turn.token.clone()),
        mode,
        target: Target { kind: Kind::service(name), actor: None, affinity: None },
        method: "m".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    })
}

fn is_refused(script: &mut Script, request: RequestId, name: &str) -> bool {
    let error = RequestError::KindRefused(Box::new(refused(name)));
    script.answers.remove(&request) == Some(Err(error))
}

#[test]
fn clients_are_told_and_may_ask_again() {
    let mut script = Script::new(&[account()]);
    script.hold_kinds = true;
    let modes = [Mode::Call, Mode::Tell, Mode::Start];
    let sent = modes.map(|mode| invoke(&mut script, None, mode, "one"));
    let other = invoke(&mut script, None, Mode::Call, "other");
    script.event(Event::KindRefused(refused("one")));
    for request in sent {
        assert!(is_refused(&mut script, request, "one"));
    }
    let noticed = Notice::KindRefused(refused("one"));
    assert_eq!(script.notices.iter().filter(|notice| **notice == noticed).count(), 1);
    assert!(!script.answers.contains_key(&other), "another kind's");
    // Again, with room for it meanwhile.
    let again = invoke(&mut script, None, Mode::Call, "one");
    assert!(!script.answers.contains_key(&again));
    script.members.kinds.insert(Kind::service("one"), 1);
    script.event(Event::Members(script.members.clone()));
    script.event(Event::KindRefused(refused("one")));
    assert!(!script.answers.contains_key(&again), "late: it is known");
}

#[test]
fn a_turn_goes_on_without_it() {
    let mut script = Script::new(&[account()]);
    let call = script.invoke(None, Mode::Call, "alice", "work");
    let turn = script.turn("work");
    script.hold_kinds = true;
    let nested = invoke(&mut script, Some(&turn), Mode::Call, "one");
    let set = script.set(&turn, "key", "1");
    let told = invoke(&mut script, Some(&turn), Mode::Tell, "one");
    assert!(!script.answers.contains_key(&set), "it waits behind the call");
    script.event(Event::KindRefused(refused("one")));
    for request in [nested, told] {
        assert!(is_refused(&mut script, request, "one"));
    }
    assert!(script.answers.remove(&set).is_some_and(|answer| answer.is_ok()));
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn a_chain_cannot_go_on_there() {
    let mut script = Script::new(&[account()]);
    let call = script.invoke(None, Mode::Call, "alice", "work");
    let turn = script.turn("work");
    script.hold_kinds = true;
    let target = Target { kind: Kind::service("one"), actor: None, affinity: None };
    let tail = TailCall { target, method: "m".into(), payload: text(""), keeps_lock: false };
    let (token, result) = (turn.token, TurnResult::TailCall(tail));
    script.event(Event::TurnResult { token, result });
    assert!(!script.answers.contains_key(&call));
    script.event(Event::KindRefused(refused("one")));
    let Outcome::Failed(ApplicationError { code, message, .. }) = script.outcome(call) else {
        panic!("it ended well");
    };
    assert_eq!(&*code, "kar.INVALID_TAIL_CALL");
    assert!(message.contains("kinds-max"), "{message}");
    script.assert_idle();
}
