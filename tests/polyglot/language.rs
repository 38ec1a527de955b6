//! What the tests know about a language, and what they start with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kar_tests::{Node, NodeOptions, World};

use crate::{java, js, python, rust};

/// Every language.
pub(crate) const LANGUAGES: &[&Language] = &[&rust::RUST, &python::PYTHON, &js::JS, &java::JAVA];

/// A language: one row of each table of tests.
#[derive(Debug)]
pub(crate) struct Language {
    /// Name, for people and for nodes.
    pub(crate) name: &'static str,
    /// The command of the hello host.
    pub(crate) host: fn() -> Vec<String>,
    /// The command of the hello client; the name to greet comes after it. It prints one greeting a line: one for
    /// each way in that it shows.
    pub(crate) client: fn() -> Vec<String>,
}

/// How a component reaches its sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

/// Both.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Unix, Transport::Tcp];

impl Language {
    /// `kar run` of the language's hello host, which finds its sidecar by this transport alone.
    pub(crate) fn options(&self, name: &str, transport: Transport) -> NodeOptions {
        let mut command = match transport {
            Transport::Unix => Vec::new(),
            // The socket comes first where both are known.
            Transport::Tcp => words(&["env", "-u", "KAR_SOCKET"]),
        };
        command.extend((self.host)());
        NodeOptions {
            name: name.into(),
            command,
            args: words(&["--service", "greeter"]),
            ..NodeOptions::default()
        }
    }

    /// A hello host that is ready.
    pub(crate) async fn host(&self, world: &World, name: &str, transport: Transport) -> Node {
        let node = world.start(self.options(name, transport)).await;
        node.hosts("greeter").await;
        node
    }

    /// The hello client of a sidecar, to be run.
    pub(crate) async fn client(&self, node: &Node, transport: Transport, who: &str) -> Command {
        let mut command = component((self.client)(), node, transport).await;
        command.arg(who);
        command
    }
}

/// A component of a sidecar that did not start it.
pub(crate) async fn component(words: Vec<String>, node: &Node, transport: Transport) -> Command {
    let (program, args) = words.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    for name in ["KAR_SOCKET", "KAR_GRPC_PORT", "KAR_APP", "KAR_API_TOKEN"] {
        command.env_remove(name);
    }
    match transport {
        Transport::Unix => command.env("KAR_SOCKET", &node.socket),
        Transport::Tcp => command.env("KAR_GRPC_PORT", node.port().await.to_string()),
    };
    command
}

/// A file of a language's folder.
///
/// # Panics
///
/// If it is not there: a language that was not built is a failure, not something to pass over.
pub(crate) fn built(path: &str, how: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let path = root.join("sdk-clients").join(path);
    assert!(path.exists(), "{} is not there: run {how}, or `cargo xtask test`", path.display());
    path
}

/// Owned words of a command.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A path as a word of a command.
pub(crate) fn word(path: &Path) -> String {
    path.to_str().expect("the workspace's path is UTF-8").to_owned()
}
