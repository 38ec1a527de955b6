//! Other languages: each as host of calls from Rust, and as client of a host in Rust, on the bare stubs. Their programs
//! take the options of this one's load client, and print the same.

use std::path::Path;

use anyhow::{Result, ensure};
use kar_tests::World;

use crate::attempt::attempt;
use crate::budget::{Scenario, Target, scenario};
use crate::report::Report;
use crate::{Args, load, measure, own_host, patience, start, wanted};

/// A language: its commands, below `sdk-clients`, and what is measured.
struct Language {
    name: &'static str,
    /// What has to be there.
    built: &'static str,
    /// The program that is started with the paths, if it is not the first of them; by its name, or by its path.
    interpreter: Option<&'static str>,
    host: &'static [&'static str],
    client: &'static [&'static str],
    as_host: &'static [Scenario],
    as_client: &'static [Scenario],
}

/// What is measured of every language on one side; put together here, so that each has the same rows.
macro_rules! scenarios {
    ($side:literal, $one:literal, $many:literal) => {
        &[
            scenario(concat!($side, ", direct, ", $one), Target::Direct, 1),
            scenario(concat!($side, ", direct, ", $many), Target::Direct, 64),
            scenario(concat!($side, ", durable, ", $one), Target::Service, 1),
            scenario(concat!($side, ", durable, ", $many), Target::Service, 64),
        ]
    };
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        built: "../target/python/wheel/bin/python",
        interpreter: Some("../target/python/wheel/bin/python"),
        host: &["python/bench/bench.py", "host"],
        client: &["python/bench/bench.py", "load"],
        as_host: scenarios!("python host", "1 client", "64 clients"),
        as_client: scenarios!("python client", "1 under way", "64 under way"),
    },
    Language {
        name: "js",
        built: "js/dist/bench/load.js",
        interpreter: Some("node"),
        host: &["js/dist/bench/host.js"],
        client: &["js/dist/bench/load.js"],
        as_host: scenarios!("js host", "1 client", "64 clients"),
        as_client: scenarios!("js client", "1 under way", "64 under way"),
    },
    Language {
        name: "java",
        built: "java/target/kar-stubs.jar",
        interpreter: None,
        host: &["java/start", "bench-host"],
        client: &["java/start", "bench-client"],
        as_host: scenarios!("java host", "1 client", "64 clients"),
        as_client: scenarios!("java client", "1 under way", "64 under way"),
    },
];

/// A row for each language as host and as client.
pub(crate) async fn measure_all(args: &Args, world: &World, report: &mut Report) -> Result<()> {
    for language in LANGUAGES {
        for (name, host, client, scenarios) in [
            ("host", language.command(language.host), load::own()?, language.as_host),
            ("client", own_host(&[])?, language.command(language.client), language.as_client),
        ] {
            let scenarios: Vec<_> = scenarios.iter().filter(|s| wanted(args, s)).collect();
            if scenarios.is_empty() {
                continue;
            }
            let name = format!("{}-{name}", language.name);
            let started = async {
                let built = folder().join(language.built);
                ensure!(
                    built.exists(),
                    "{} is not there: run `cargo xtask test --only python --only js --only java`",
                    built.display()
                );
                start(world, &name, &host).await
            };
            let limit = patience(args, 2);
            let nodes = attempt(&mut report.failures, &name, limit, started).await;
            let Some(nodes) = nodes else { continue };
            for scenario in scenarios {
                measure(args, world, &nodes, &client, scenario, report).await;
            }
        }
    }
    Ok(())
}

impl Language {
    fn command(&self, words: &[&str]) -> Vec<String> {
        let (program, args) = words.split_first().expect("a command has a program");
        let program = folder().join(program).to_string_lossy().into_owned();
        let by_path = |name: &str| folder().join(name).to_string_lossy().into_owned();
        let interpreter = self
            .interpreter
            .map(|name| if name.contains('/') { by_path(name) } else { name.to_owned() });
        let args = args.iter().map(|arg| (*arg).to_owned());
        interpreter.into_iter().chain([program]).chain(args).collect()
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk-clients"))
}
