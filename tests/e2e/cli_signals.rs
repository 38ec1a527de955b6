//! What `kar run` does with signals, as `docs/cli.md` says it.

use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, test, wait};
use rustix::process::Signal;

/// A component that is a script, and ends by itself only when it is killed.
fn shell(name: &str, script: &str, run_args: &[&str]) -> NodeOptions {
    NodeOptions {
        name: name.into(),
        command: vec!["sh".into(), "-c".into(), format!("{script}; while :; do sleep 0.05; done")],
        args: run_args.iter().map(|&arg| arg.to_owned()).collect(),
        ..NodeOptions::default()
    }
}

/// Waits until a line of some process's output says so.
async fn said(world: &World, text: &str) {
    wait::until_true(&format!("somebody to say '{text}'"), READY_LIMIT, async || {
        world.logs().values().any(|log| log.contains(text))
    })
    .await;
}

async fn up(world: &World, options: NodeOptions) -> Node {
    let node = world.start(options).await;
    said(world, &format!("{} | up", node.name)).await;
    node
}

#[test]
fn the_component_gets_the_signal_ends_by_itself_and_its_code_is_passed_on() {
    test(async {
        for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
            let world = World::new("trap");
            let script = format!("trap 'echo bye {name}; exit 5' {name}; echo up");
            let mut node = up(&world, shell("trap", &script, &[])).await;
            node.signal(signal);
            assert_eq!(node.ended(READY_LIMIT).await, 5, "{name}");
            let bye = format!("trap | bye {name}");
            assert!(world.logs().values().any(|log| log.contains(&bye)), "{name}");
        }
    });
}

#[test]
fn a_hang_up_is_the_components_affair() {
    test(async {
        let world = World::new("hup");
        let script = "trap 'echo reloaded' HUP; trap 'exit 5' TERM; echo up";
        let mut node = up(&world, shell("reload", script, &[])).await;
        let before = node.component_pid().await;
        node.signal(Signal::HUP);
        said(&world, "reload | reloaded").await;
        // Neither of them ends of it, and nothing is handed over.
        assert_eq!(node.info().await.node.expect("a node").name, "reload");
        assert_eq!(node.component_pid().await, before);
        assert!(!world.logs().values().any(|log| log.contains("handing over")));
        node.signal(Signal::TERM);
        assert_eq!(node.ended(READY_LIMIT).await, 5);
    });
}

#[test]
fn a_component_that_a_hang_up_ends_passes_its_code_on() {
    test(async {
        let world = World::new("hup-end");
        let mut node = up(&world, shell("hung", "echo up", &[])).await;
        node.signal(Signal::HUP);
        assert_eq!(node.ended(READY_LIMIT).await, 128 + 1);
    });
}

#[test]
fn a_component_that_ignores_sigterm_is_killed_after_the_stop_timeout() {
    test(async {
        let world = World::new("stubborn");
        let script = "trap '' TERM; echo up";
        let mut node = up(&world, shell("stubborn", script, &["--stop-timeout", "300ms"])).await;
        node.signal(Signal::TERM);
        assert_eq!(node.ended(READY_LIMIT).await, 137);
    });
}

#[test]
fn a_second_signal_hurries() {
    test(async {
        for (first, second) in [(Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)] {
            let world = World::new("hurry");
            // By itself it would be killed long after this test has given up.
            let script = "trap 'echo asked' TERM INT; echo up";
            let mut node = up(&world, shell("slow", script, &["--stop-timeout", "1h"])).await;
            node.signal(first);
            said(&world, "slow | asked").await;
            assert!(node.alive(), "the component is given its time");
            node.signal(second);
            assert_eq!(node.ended(Duration::from_secs(20)).await, 137);
        }
    });
}

#[test]
fn a_bare_sidecar_ends_by_any_signal_but_a_hang_up() {
    test(async {
        for signal in [Signal::TERM, Signal::INT] {
            let world = World::new("bare");
            let mut node = world.bare("bare").await;
            node.signal(Signal::HUP);
            assert_eq!(node.info().await.node.expect("a node").name, "bare");
            node.signal(signal);
            assert_eq!(node.ended(READY_LIMIT).await, 0);
        }
    });
}
