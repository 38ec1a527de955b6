//! What methods and clients in Python can do, at a real sidecar: the cases of `conformance/features.py`.

use std::process::Command;

use kar_tests::python::{Install, script, test};
use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{Node, NodeOptions, World};

const PROGRAM: &str = "conformance/features.py";

/// Runs a case as the component of a sidecar that somebody else started, to its end.
async fn run(node: &Node, words: &[&str]) {
    let program = script(Install::Source, PROGRAM);
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).args(words).env("KAR_SOCKET", &node.socket);
    command.env_remove("KAR_GRPC_PORT").env_remove("KAR_API_TOKEN");
    let output = capture(command).await;
    assert_eq!(output.code, 0, "{words:?}: {output:?}");
}

async fn case(name: &str, run_args: &[&str]) {
    let world = World::new("pyfeature");
    world.add_run_args(run_args);
    let node = world.bare("a").await;
    // For what is handed over.
    let _heir = world.bare("b").await;
    run(&node, &[name]).await;
}

#[test]
fn a_method_hands_on_in_every_form() {
    test(case("tails", &[]));
}

#[test]
fn branches_are_joined_also_where_one_fails() {
    test(case("joins", &[]));
}

#[test]
fn steps_and_keyed_calls_are_done_once_over_retries() {
    test(case("steps", &[]));
}

#[test]
fn shared_methods_run_beside_each_other_and_change_nothing() {
    test(case("shared", &[]));
}

#[test]
fn what_runs_is_cancelled_and_what_waits_ends_at_once() {
    test(case("cancels", &[]));
}

#[test]
fn one_key_is_one_invocation_and_another_argument_is_told() {
    test(case("keys", &[]));
}

#[test]
fn who_waits_in_a_circle_is_told_which() {
    test(case("circles", &[]));
}

#[test]
fn reminders_ring_once_again_by_cron_and_for_what_was_missed() {
    test(case("reminders", &[]));
}

#[test]
fn an_actor_rests_when_it_is_idle_and_is_removed_with_all_that_it_has() {
    test(case("life", &["--actor-idle-ms", "100"]));
}

#[test]
fn operators_see_what_is_unfinished_and_what_has_failed() {
    test(case("operators", &[]));
}

#[test]
fn calls_that_are_given_up_hold_up_no_others_and_go_on() {
    test(case("forgets", &["--request-credits", "16"]));
}

#[test]
fn the_applications_state_is_written_together_and_for_a_time() {
    test(case("states", &[]));
}

#[test]
fn an_actors_sub_maps_are_written_with_its_turns_and_read_by_pages() {
    test(case("maps", &[]));
}

#[test]
fn direct_calls_go_past_all_logs_and_are_made_once() {
    test(case("directs", &[]));
}

#[test]
fn calls_with_one_affinity_key_are_handled_by_one_owner() {
    test(async {
        let world = World::new("pyaffinity");
        let (node, other) = (world.bare("a").await, world.bare("b").await);
        run(&node, &["affinity", other.socket.to_str().expect("UTF-8")]).await;
    });
}

#[test]
fn a_sidecar_that_is_shut_down_lets_turns_end_and_ends() {
    test(async {
        let world = World::new("pydown");
        let (mut node, other) = (world.bare("a").await, world.bare("b").await);
        run(&node, &["shut_down", other.socket.to_str().expect("UTF-8")]).await;
        assert_eq!(node.ended(READY_LIMIT).await, 0);
    });
}

#[test]
fn what_kills_its_hosts_is_parked_and_resumed() {
    test(async {
        let world = World::new("pypark");
        world.add_run_args(&["--park-after-attempts", "2"]);
        let front = world.bare("front").await;
        let mut command = script(Install::Source, PROGRAM);
        command.push("poison".to_owned());
        let (name, args) = ("host".to_owned(), vec!["--restart".to_owned()]);
        let _host = world.start(NodeOptions { name, command, args, ..Default::default() }).await;
        let cure = world.path().join("cure");
        run(&front, &["parked", cure.to_str().expect("UTF-8")]).await;
    });
}
