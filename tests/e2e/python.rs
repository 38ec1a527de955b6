//! The Python SDK: README's words, from the installed wheel and from the source tree; a sidecar that restarts; errors
//! across languages. What every language has to do alike is in `tests/polyglot`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kar_tests::errors::assert_error;
use kar_tests::python::{INSTALLS, Install, interpreter, sample, test};
use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{Node, NodeOptions, World, process, wait};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::Code;

/// Longest time for a component to leave in order, or to give up.
const END_LIMIT: Duration = Duration::from_secs(20);

/// The variables by which a component finds its sidecar.
const FOUND_BY: [&str; 3] = ["KAR_SOCKET", "KAR_GRPC_PORT", "KAR_API_TOKEN"];

fn options(name: &str, command: Vec<String>) -> NodeOptions {
    let args = ["--service", "greeter"].map(str::to_owned).to_vec();
    NodeOptions { name: name.into(), command, args, ..NodeOptions::default() }
}

/// As it comes, or without the socket, so that the port is used.
fn over_tcp(command: Vec<String>) -> Vec<String> {
    ["env", "-u", "KAR_SOCKET"].into_iter().map(str::to_owned).chain(command).collect()
}

#[test]
fn the_greeter_of_the_readme_from_the_wheel_and_from_the_source_tree() {
    test(async {
        for install in INSTALLS {
            let server = sample(install, "hello/server.py");
            let world = World::new("pyhello");
            for (name, command) in [("unix", server.clone()), ("tcp", over_tcp(server))] {
                let mut node = world.start(options(name, command)).await;
                node.hosts("greeter").await;
                let words = ["greeter", "hello", r#"{"name":"Alan"}"#];
                let output = world.kar_here("call", &words).await;
                assert_eq!(
                    (output.code, output.stdout.trim()),
                    (0, r#""Hello, Alan!""#),
                    "{install:?} over {name}: {output:?}"
                );
                node.signal(Signal::TERM);
                assert_eq!(node.ended(END_LIMIT).await, 0, "{install:?} over {name}");
            }
        }
    });
}

#[test]
fn the_sample_client_over_both_sockets() {
    test(async {
        for install in INSTALLS {
            let server = sample(install, "hello/server.py");
            let client = sample(install, "hello/client.py");
            let world = World::new("pyclient");
            let host = world.start(options("host", server)).await;
            host.hosts("greeter").await;
            for mut command in [client.clone(), over_tcp(client)] {
                command.push("Bob".to_owned());
                let mut words = vec!["--no-prefix", "--"];
                words.extend(command.iter().map(String::as_str));
                let output = world.kar_here("run", &words).await;
                assert_eq!(output.code, 0, "{install:?}: {output:?}");
                assert!(output.stdout.contains("Hello, Bob!\nHello, Bob!\n"), "{output:?}");
            }
        }
    });
}

#[test]
fn the_wheel_is_complete_without_the_source_tree() {
    test(async {
        let python = interpreter(Install::Wheel);
        let mut command = Command::new(python);
        // Isolated: neither the folder nor the environment adds anything to what is installed.
        let program = "import kar, kar.v1.system_pb2_grpc, pathlib; print(kar.__file__); \
                       print((pathlib.Path(kar.__file__).parent / 'py.typed').exists())";
        command.args(["-I", "-c", program]);
        let output = capture(command).await;
        assert_eq!(output.code, 0, "{output:?}");
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert!(lines[0].contains("site-packages"), "{output:?}");
        assert_eq!(lines[1], "True", "{output:?}");
    });
}

/// A greeter that its sidecar did not start, so that it lives longer than it.
struct Greeter(Child);

impl Greeter {
    fn start(node: &Node, variables: &[(&str, &str)]) -> Self {
        let words = sample(Install::Source, "hello/server.py");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        for name in FOUND_BY {
            command.env_remove(name);
        }
        command.env("KAR_SOCKET", &node.socket).envs(variables.iter().copied());
        Self(command.spawn().expect("Python can be started"))
    }

    async fn ended(&mut self) -> i32 {
        let child = &mut self.0;
        let status = wait::until("the greeter to end", END_LIMIT, async || {
            child.try_wait().expect("the process is ours")
        })
        .await;
        status.code().unwrap_or(-1)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        process::kill(self.0.id());
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_host_outlives_its_sidecar_and_registers_at_the_next() {
    test(async {
        let world = World::new("pyback");
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut node = world.bare("node").await;
        let mut greeter = Greeter::start(&node, &[]);
        for round in 0..3 {
            node.hosts("greeter").await;
            let answer = client.invoke("greeter", "hello", &json!({ "name": "Alan" })).await;
            assert_eq!(answer.expect("answered"), Ok(json!("Hello, Alan!")), "round {round}");
            node.kill_sidecar();
            node.ended(READY_LIMIT).await;
            node = world.bare("node").await;
        }
        node.hosts("greeter").await;
        // Leaves in order, by itself; its sidecar stays.
        process::signal(greeter.0.id(), Signal::TERM);
        assert_eq!(greeter.ended().await, 0);
        assert!(node.alive());
    });
}

#[test]
fn the_topology_is_followed() {
    test(async {
        let world = World::new("pywatch");
        let a = world.app("a", &["echo"]).await;
        a.hosts("Echo").await;
        // Says who owns something of the actors, until the first one is not among them any more.
        let program = "
import asyncio, contextlib, kar

async def main():
    async with kar.connect() as client, contextlib.aclosing(client.watch_topology()) as told:
        async for topology in told:
            owners = {topology.node(owner) for owner in topology.actor_types.get('Echo', ())}
            names = sorted(node.name for node in owners if node)
            print(*names, flush=True)
            if names == ['b']:
                break

asyncio.run(main())
";
        let mut command = Command::new(interpreter(Install::Source));
        command.args(["-c", program]).env("KAR_SOCKET", &a.socket).stdin(Stdio::null());
        command.env_remove("KAR_GRPC_PORT").env_remove("KAR_API_TOKEN").stdout(Stdio::piped());
        let mut follower = tokio::process::Command::from(command);
        let mut follower = follower.kill_on_drop(true).spawn().expect("Python can be started");
        let mut lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
        let mut until = async |owners: &str| {
            let told = async {
                while lines.next_line().await.expect("read").expect("it goes on") != owners {}
            };
            let told = tokio::time::timeout(READY_LIMIT, told).await;
            told.unwrap_or_else(|_| panic!("not told: {owners}"));
        };
        until("a").await;
        let b = world.app("b", &["echo"]).await;
        b.hosts("Echo").await;
        until("a b").await;
        let drained = world.kar_here("drain", &["a"]).await;
        assert_eq!(drained.code, 0, "{drained:?}");
        until("b").await;
        let ended = tokio::time::timeout(END_LIMIT, follower.wait()).await.expect("it ends");
        assert!(ended.expect("it can be waited for").success());
    });
}

#[test]
fn the_token_of_the_environment_is_used_and_a_wrong_one_is_told() {
    test(async {
        let world = World::new("pytoken");
        world.add_run_args(&["--api-token", "secret"]);
        let node = world.spawn(&NodeOptions { name: "node".into(), ..NodeOptions::default() });
        node.listens().await;
        let mut wrong = Greeter::start(&node, &[("KAR_API_TOKEN", "wrong")]);
        assert_eq!(wrong.ended().await, 1, "it does not go on trying");
        let _right = Greeter::start(&node, &[("KAR_API_TOKEN", "secret")]);
        let client = node.client().await.with_token("secret");
        let answer = client.invoke("greeter", "hello", &json!({ "name": "Alan" })).await;
        assert_eq!(answer.expect("answered"), Ok(json!("Hello, Alan!")));
    });
}

#[test]
fn errors_tell_the_caller_what_happened_over_there() {
    test(async {
        let server = sample(Install::Source, "hello/server.py");
        let world = World::new("pyerrors");
        let node = world.start(options("host", server)).await;
        node.hosts("greeter").await;
        let client = node.client().await;
        let answer = client.invoke("greeter", "hello", &json!({ "nam": "Alan" })).await;
        let error = answer.expect("answered").expect_err("no name");
        assert_eq!(error.code, "codec");
        assert_eq!(error.message, "not a JSON value of Person: Person needs name");
        let answer =
            client.invoke("greeter", "slow", &json!({ "name": "Alan", "millis": -1 })).await;
        assert_eq!(
            answer.expect("answered"),
            Ok(json!("Hello, Alan!")),
            "asyncio takes it as none"
        );
        let answer = client.invoke("greeter", "nonsense", &json!(null)).await;
        let status = assert_error(answer, Code::NotFound, "UNKNOWN_METHOD");
        assert!(status.message().contains("it has: hello, slow"), "{status:?}");
    });
}

#[test]
fn the_bank_of_the_readme_over_two_languages_balances() {
    test(async {
        let rust = vec![kar_tests::binaries::example("bank").to_string_lossy().into_owned()];
        let python = sample(Install::Source, "bank/bank.py");
        for (accounts, teller) in [(&python, &rust), (&rust, &python)] {
            let world = World::new("twobank");
            let part = |words: &[String], part: &str| {
                let command = words.iter().cloned().chain([part.to_owned()]).collect();
                NodeOptions { name: part.into(), command, ..NodeOptions::default() }
            };
            let accounts = world.start(part(accounts, "accounts")).await;
            let teller = world.start(part(teller, "teller")).await;
            accounts.hosts("Account").await;
            teller.hosts("teller").await;
            let mut words = vec!["--no-prefix", "--", &rust[0], "load", "--transfers", "300"];
            words.extend(["--accounts", "10", "--clients", "16"]);
            let output = world.kar_here("run", &words).await;
            assert_eq!(output.code, 0, "{output:?}");
            let line = output.stdout.lines().find(|line| line.starts_with('{')).unwrap_or("null");
            let report: serde_json::Value = serde_json::from_str(line).expect("a report");
            assert_eq!(report["balanced"], true, "{report}");
            for name in ["lost", "repeated", "torn", "errors", "unknown"] {
                assert_eq!(report[name], 0, "{name}: {report}");
            }
        }
    });
}
