//! The greeter: every language calls every language, over the Unix socket and over TCP.

use std::time::Duration;

use kar_tests::world::capture;
use kar_tests::{World, test, wait};

use crate::language::{LANGUAGES, Language, TRANSPORTS};

/// How long one client may take on a machine that does much else.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// Hosts in this language are called by clients in all of them.
pub(crate) fn hosted_by(language: &'static Language) {
    test(async {
        let world = World::new("hello");
        // The clients' sidecar is another one than the host's.
        let front = world.bare("front").await;
        for hosting in TRANSPORTS {
            let name = format!("{}-{hosting:?}", language.name);
            let mut host = language.host(&world, &name, hosting).await;
            for client in LANGUAGES {
                for calling in TRANSPORTS {
                    let who = format!("{}-{calling:?}", client.name);
                    let command = client.client(&front, calling, &who).await;
                    let output = tokio::time::timeout(CLIENT_LIMIT, capture(command)).await;
                    let output =
                        output.unwrap_or_else(|_| panic!("{who} to {name} takes too long"));
                    let greetings: Vec<&str> = output.stdout.lines().collect();
                    let expected = format!("Hello, {who}!");
                    assert_eq!(output.code, 0, "{who} to {name}: {output:?}");
                    assert!(!greetings.is_empty(), "{who} to {name}: {output:?}");
                    assert!(
                        greetings.iter().all(|g| *g == expected),
                        "{who} to {name}: {output:?}"
                    );
                }
            }
            host.signal(rustix::process::Signal::TERM);
            assert_eq!(host.ended(Duration::from_secs(30)).await, 0, "{name} ends in order");
        }
    });
}

#[test]
fn an_error_of_the_sidecar_is_told_with_its_reason() {
    test(async {
        let world = World::new("refused");
        world.add_run_args(&["--api-token", "secret"]);
        let node = world.spawn(&kar_tests::NodeOptions { name: "n".into(), ..Default::default() });
        node.listens().await;
        for client in LANGUAGES {
            let words = (client.client)();
            let mut command = std::process::Command::new(&words[0]);
            command.args(&words[1..]).env("KAR_SOCKET", &node.socket).env_remove("KAR_API_TOKEN");
            let output = capture(command).await;
            assert_eq!(output.code, 1, "{}: {output:?}", client.name);
            assert!(output.stderr.contains("WRONG_API_TOKEN"), "{}: {output:?}", client.name);
        }
        // The sidecar goes on for those who have the token.
        let good = node.client().await.with_token("secret");
        wait::until_true("an answer", Duration::from_secs(10), async || {
            good.system().get_info(kar_proto::v1::GetInfoRequest {}).await.is_ok()
        })
        .await;
    });
}
