//! Python: two virtual environments below `target/python`, and what is checked with them.
//!
//! `source` has the pinned tools and the SDK from the source tree; the checks run in it. `wheel` has the SDK as users
//! get it: from the wheel, which is built from the source distribution. The end-to-end tests use both.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::plan::minutes;
use crate::step::Runner;

/// The SDK.
const SDK: &str = "sdk-clients/python";

/// Everything made, below the workspace.
const FOLDER: &str = "target/python";

/// What the tools print, and downloads, take at most.
const LIMIT: Duration = minutes(10);

/// Prints the version if it is new enough and can make environments.
pub(crate) const PROBE: &[&str] = &[
    "python3",
    "-c",
    "import sys, venv, ensurepip; assert sys.version_info >= (3, 11); print(sys.version.split()[0])",
];

/// `cargo xtask python`: everything of Python but the end-to-end tests.
pub(crate) fn task() -> ExitCode {
    let mut runner = Runner::new(&[]);
    build(&mut runner);
    runner.finish()
}

/// Installs, builds and checks; tells whether the samples can be run.
pub(crate) fn build(runner: &mut Runner) -> bool {
    let (source, wheel) = (environment("source"), environment("wheel"));
    let requirements = format!("{SDK}/requirements-dev.txt");
    let tools = ["-r", requirements.as_str()];
    let own = ["--no-deps", "--no-build-isolation", "--editable", SDK];
    let built = make(runner, &source)
        && make(runner, &wheel)
        && runner.run("python: tools", LIMIT, &mut pip(&source, &tools))
        && runner.run("python: SDK from source", LIMIT, &mut pip(&source, &own))
        && runner.check("python: old wheels", clear_wheels)
        && runner.run("python: wheel", LIMIT, &mut package(&source))
        && install_wheel(runner, &wheel);
    if !built {
        runner.skip("python: types, unit tests", "the environments could not be made");
        return false;
    }
    let mut types = Command::new(program(&source, "mypy"));
    runner.run("python: types", LIMIT, types.current_dir(SDK));
    let mut unit = Command::new(program(&source, "pytest"));
    runner.run("python: unit tests", LIMIT, unit.current_dir(SDK));
    true
}

/// Makes an environment unless it is there.
fn make(runner: &mut Runner, environment: &Path) -> bool {
    if environment.join("bin/python").exists() {
        return true;
    }
    let mut venv = Command::new(PROBE[0]);
    venv.args(["-m", "venv", "--clear"]).arg(environment);
    runner.run("python: environment", LIMIT, &mut venv)
}

fn environment(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// A program of an environment, by its whole path: some of them are started in the SDK's folder.
fn program(environment: &Path, name: &str) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    here.join(environment).join("bin").join(name)
}

fn pip<S: AsRef<OsStr>>(environment: &Path, args: &[S]) -> Command {
    let mut command = Command::new(program(environment, "python"));
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(args);
    command
}

fn wheels() -> PathBuf {
    Path::new(FOLDER).join("dist")
}

/// Only the wheel of this run may be installed.
fn clear_wheels() -> Result<()> {
    match fs::remove_dir_all(wheels()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("remove the wheels of earlier runs")
        }
        _ => Ok(()),
    }
}

/// The source distribution, and the wheel out of it.
fn package(environment: &Path) -> Command {
    let mut command = Command::new(program(environment, "python"));
    command.args(["-m", "build", "--no-isolation", "--outdir"]).arg(wheels()).arg(SDK);
    command
}

/// Installs the wheel, and what it says that it depends on.
fn install_wheel(runner: &mut Runner, environment: &Path) -> bool {
    let mut built =
        fs::read_dir(wheels()).into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(wheel) = built.find(|path| path.extension() == Some(OsStr::new("whl"))) else {
        // The step before was not wanted, so nothing is there to be installed.
        return true;
    };
    let wheel = wheel.as_os_str();
    let flag = OsStr::new;
    // Anew also where the version is the same; what it depends on need not be installed anew for that.
    let mut own = pip(environment, &[flag("--force-reinstall"), flag("--no-deps"), wheel]);
    runner.run("python: SDK from the wheel", LIMIT, &mut own)
        && runner.run("python: what it depends on", LIMIT, &mut pip(environment, &[wheel]))
}
