//! JavaScript: plain stubs on Node.

use crate::language::{Language, built, word};
use crate::nonsense::{self, Culprit};
use crate::{hello, kills, leaving};

pub(crate) const JS: Language = Language {
    name: "js",
    host: || program("samples/hello/server.js"),
    client: || program("samples/hello/client.js"),
};

pub(crate) fn program(name: &str) -> Vec<String> {
    let how = "`npm ci && npm run generate && npm run build` in sdk-clients/js";
    vec!["node".to_owned(), word(&built(&format!("js/dist/{name}"), how))]
}

#[test]
fn hosts_are_called_from_every_language() {
    hello::hosted_by(&JS);
}

#[test]
fn a_host_is_killed_in_mid_call_20_times() {
    kills::in_mid_call(&JS);
}

#[test]
fn a_host_leaves_in_order() {
    leaving::in_order(&JS);
}

#[test]
fn a_host_stops_cancelled_turns() {
    leaving::with_a_cancelled_turn(&JS);
}

#[test]
fn nonsense_is_answered_with_a_reason() {
    nonsense::every_case(JS.name, Culprit::Program(program("conformance/nonsense.js")));
}
