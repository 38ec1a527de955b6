//! JavaScript: the stubs, their samples and their own tests, in `sdk-clients/js`.

use std::process::Command;

use crate::plan::minutes;
use crate::step::Runner;

const FOLDER: &str = "sdk-clients/js";

/// Installs, generates, checks and builds; tells whether the samples are there.
pub(crate) fn build(runner: &mut Runner) -> bool {
    // What the lock file names, and nothing else; from npm's cache where it has it.
    let mut install = npm(&["ci", "--prefer-offline", "--no-audit", "--no-fund"]);
    if !runner.run("js: install", minutes(10), &mut install) {
        runner.skip("js: stubs, build, tests", "npm could not install");
        return false;
    }
    // The contract is linted here because npm brings the tool.
    let lint = runner.run("js: lint of the contract", minutes(2), &mut script("lint:proto"));
    let built = runner.run("js: stubs", minutes(5), &mut script("generate"))
        // The compiler checks the types, strictly.
        && runner.run("js: build", minutes(5), &mut script("build"))
        && runner.run("js: tests", minutes(2), &mut script("test"));
    lint && built
}

fn script(name: &str) -> Command {
    npm(&["run", "--silent", name])
}

fn npm(args: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(args).current_dir(FOLDER);
    command
}
