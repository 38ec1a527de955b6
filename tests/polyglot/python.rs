//! Python: the SDK, from the wheel. (`tests/e2e/python.rs` has what is particular to it.)

use kar_tests::python::{Install, sample, script};

use crate::language::Language;
use crate::nonsense::{self, Culprit};
use crate::{hello, kills, leaving};

pub(crate) const PYTHON: Language = Language {
    name: "python",
    host: || sample(Install::Wheel, "hello/server.py"),
    client: || sample(Install::Wheel, "hello/client.py"),
};

#[test]
fn hosts_are_called_from_every_language() {
    hello::hosted_by(&PYTHON);
}

#[test]
fn a_host_is_killed_in_mid_call_20_times() {
    kills::in_mid_call(&PYTHON);
}

#[test]
fn a_host_leaves_in_order() {
    leaving::in_order(&PYTHON);
}

#[test]
fn a_host_stops_cancelled_turns() {
    leaving::with_a_cancelled_turn(&PYTHON);
}

#[test]
fn nonsense_is_answered_with_a_reason() {
    let program = script(Install::Wheel, "conformance/nonsense.py");
    nonsense::every_case(PYTHON.name, Culprit::Program(program));
}
