//! Which steps a task has, and in which order.
//!
//! All builds for tests name the same packages (everything but the simulator), so that cargo unifies features the same
//! way each time and builds every crate once. The simulator switches on `kar-core`'s feature `mutations`, which the
//! binary under test must not have; it is built apart, in release.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::step::Runner;
use crate::tools::{self, Found};
use crate::{java, js, python, tidy};

/// Random schedules of the simulator in a test run.
pub(crate) const SEEDS: u32 = 20_000;

/// The packages under test.
const PACKAGES: &[&str] = &["--locked", "--workspace", "--exclude", "kar-sim"];

/// Builds what the tests of a language need; false if it failed.
type Build = fn(&mut Runner) -> bool;

/// So many minutes.
pub(crate) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

/// `cargo xtask test`.
pub(crate) fn test(only: &[String], seeds: u32, every_language: bool) -> Result<ExitCode> {
    let found = tools::find();
    if !found.complete || (every_language && !found.absent_languages.is_empty()) {
        println!("tools are missing; see above for how to get them");
        println!("0 passed, 1 failed");
        return Ok(ExitCode::FAILURE);
    }
    let mut runner = Runner::new(only);
    style(&mut runner);
    let built =
        runner.run("build", minutes(30), cargo(&["build"]).args(PACKAGES).arg("--all-targets"));
    let builds: [(&str, Build); 3] =
        [("python", python::build), ("js", js::build), ("java", java::build)];
    let other_languages = builds.map(|(language, build)| {
        if !found.absent_languages.contains(&language) {
            return build(&mut runner);
        }
        runner.skip(language, "a tool is missing; see the beginning");
        false
    });
    if built {
        unit_tests(&mut runner, &found);
        // Some of these run Python; they say so where it was not built.
        end_to_end(&mut runner, &found);
        if other_languages.contains(&false) {
            runner.skip("polyglot tests", "a language is missing, or its build failed");
        } else {
            polyglot(&mut runner, &found);
        }
    } else {
        runner.skip("unit and end-to-end tests", "the build failed");
    }
    simulator(&mut runner, seeds);
    Ok(runner.finish())
}

/// `cargo xtask lint`.
pub(crate) fn lint() -> Result<ExitCode> {
    let mut runner = Runner::new(&[]);
    style(&mut runner);
    Ok(runner.finish())
}

/// `cargo xtask bench`.
pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    let build = ["build", "--locked", "--release", "-p", "kar", "-p", "kar-tests", "--bins"];
    succeed(&mut cargo(&build))?;
    pass_on(Command::new("target/release/kar-bench").args(args))
}

/// `cargo xtask soak`.
pub(crate) fn soak(debug: bool, args: &[String]) -> Result<ExitCode> {
    let (profile, program) = match debug {
        true => ("dev", "target/debug/kar-soak"),
        false => ("release", "target/release/kar-soak"),
    };
    let build = ["build", "--locked", "-p", "kar", "-p", "kar-tests", "--bins", "--profile"];
    succeed(cargo(&build).arg(profile))?;
    pass_on(Command::new(program).args(args))
}

/// `cargo xtask demo`.
pub(crate) fn demo(args: &[String]) -> Result<ExitCode> {
    pass_on(cargo(&["run", "--locked", "--release", "-p", "kar", "--", "demo"]).args(args))
}

fn style(runner: &mut Runner) {
    runner.run("format", minutes(1), &mut cargo(&["fmt", "--all", "--check"]));
    runner.check("house rules", tidy::check);
    dependencies(runner);
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets"];
    let mut clippy = cargo(&clippy);
    runner.run("clippy", minutes(20), clippy.args(["--", "-D", "warnings"]));
}

/// The rules of `deny.toml`, but for the advisories: those are fetched, and change without a change here.
fn dependencies(runner: &mut Runner) {
    const STEP: &str = "dependencies";
    if !tools::has_deny() {
        return runner.skip(STEP, "no cargo-deny: cargo install --locked cargo-deny");
    }
    let mut deny = cargo(&["deny", "--locked", "--offline", "check", "-D", "warnings"]);
    runner.run(STEP, minutes(1), deny.args(["bans", "licenses", "sources"]));
}

fn unit_tests(runner: &mut Runner, found: &Found) {
    let mut unit = tests(found);
    unit.args(PACKAGES).args(["--exclude", "kar-tests", "--all-targets", "--no-fail-fast"]);
    runner.run("unit tests", minutes(15), &mut unit);
    let mut docs = cargo(&["test", "--doc"]);
    docs.args(PACKAGES).args(["--exclude", "kar-tests", "--no-fail-fast"]);
    runner.run("doc tests", minutes(15), &mut docs);
}

fn end_to_end(runner: &mut Runner, found: &Found) {
    // Tests mostly wait for processes of their own, so more of them run at once than there are cores.
    for (name, test, threads, limit) in [
        ("end-to-end tests", "--test=e2e", "4", minutes(15)),
        ("fault tests", "--test=fault_tests", "4", minutes(20)),
    ] {
        let mut command = processes(found, test, threads);
        if let Some(grpcurl) = &found.grpcurl {
            command.env("KAR_GRPCURL", grpcurl);
        }
        if found.absent_languages.contains(&"python") {
            command.env("KAR_TESTS_WITHOUT_PYTHON", "1");
        }
        runner.run(name, limit, &mut command);
    }
    if found.grpcurl.is_none() {
        runner.skip("grpcurl tests", "no grpcurl and no Go to build it with");
    }
}

/// Hosts and clients in several languages together.
fn polyglot(runner: &mut Runner, found: &Found) {
    // Fewer at once: starting a JVM takes a core for a second.
    let mut command = processes(found, "--test=polyglot", "3");
    runner.run("polyglot tests", minutes(15), &mut command);
}

/// A target of tests that start processes.
fn processes(found: &Found, test: &str, threads: &str) -> Command {
    let mut command = tests(found);
    command.args(PACKAGES).args(["--no-fail-fast", test]);
    if !found.nextest {
        command.args(["--", "--test-threads", threads]);
    }
    command.env("KAR_TESTS_BUILT", "1");
    command
}

fn simulator(runner: &mut Runner, seeds: u32) {
    let mut unit = cargo(&["test", "--locked", "--release", "-p", "kar-sim", "--no-fail-fast"]);
    runner.run("simulator: its tests", minutes(20), &mut unit);
    let mut run = cargo(&["run", "--locked", "--release", "-p", "kar-sim", "--", "--seeds"]);
    runner.run(&format!("simulator: {seeds} schedules"), minutes(15), run.arg(seeds.to_string()));
}

/// The test runner: nextest if it is there.
fn tests(found: &Found) -> Command {
    if found.nextest { cargo(&["nextest", "run", "--no-tests=pass"]) } else { cargo(&["test"]) }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(args);
    command
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a program in the foreground and ends with its exit code.
fn pass_on(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
