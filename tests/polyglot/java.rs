//! Java: plain stubs on the JVM.

use crate::language::{Language, built, word};
use crate::nonsense::{self, Culprit};
use crate::{hello, kills, leaving};

pub(crate) const JAVA: Language =
    Language { name: "java", host: || program("hello-server"), client: || program("hello-client") };

pub(crate) fn program(name: &str) -> Vec<String> {
    let how = "`mvn package` in sdk-clients/java";
    built("java/target/kar-stubs.jar", how);
    vec![word(&built("java/start", how)), name.to_owned()]
}

#[test]
fn hosts_are_called_from_every_language() {
    hello::hosted_by(&JAVA);
}

#[test]
fn a_host_is_killed_in_mid_call_20_times() {
    kills::in_mid_call(&JAVA);
}

#[test]
fn a_host_leaves_in_order() {
    leaving::in_order(&JAVA);
}

#[test]
fn a_host_stops_cancelled_turns() {
    leaving::with_a_cancelled_turn(&JAVA);
}

#[test]
fn nonsense_is_answered_with_a_reason() {
    nonsense::every_case(JAVA.name, Culprit::Program(program("nonsense")));
}
