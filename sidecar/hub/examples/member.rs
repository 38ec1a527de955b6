//! A member as a process, for the tests of this crate: `member DATA_DIR` says what happens to it,
//! one event a line, until it is killed.

use std::io::Write as _;

use kar_hub::{ClientConfig, HubClient, HubEvent};

fn main() {
    let dir = std::env::args().nth(1).expect("usage: member DATA_DIR");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let config = ClientConfig::new(dir, "app", "member");
        let client = HubClient::connect(config, |events| {
            let mut out = std::io::stdout().lock();
            for event in events {
                let said = match event {
                    HubEvent::Welcome { incarnation, .. } => {
                        writeln!(out, "welcome {incarnation}")
                    }
                    HubEvent::Evicted => writeln!(out, "evicted"),
                    HubEvent::Disconnected => writeln!(out, "disconnected"),
                    _ => Ok(()),
                };
                said.and_then(|()| out.flush()).expect("somebody listens");
            }
        });
        let _client = client.await.expect("a hub");
        std::future::pending::<()>().await;
    });
}
