//! What the tests need besides cargo: said at the start, installed where that is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::python;

/// Version of grpcurl that the tests are written for.
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";

/// Folder of installed tools, below the workspace.
const TOOLS: &str = "target/tools";

/// A tool, and how it is come by.
struct Tool {
    name: &'static str,
    probe: &'static [&'static str],
    needed_for: &'static str,
    how: &'static str,
    optional: bool,
}

const TOOLS_WANTED: &[Tool] = &[
    Tool {
        name: "cargo",
        probe: &["cargo", "--version"],
        needed_for: "everything",
        how: "install Rust with rustup",
        optional: false,
    },
    Tool {
        name: "rustfmt",
        probe: &["cargo", "fmt", "--version"],
        needed_for: "the format check",
        how: "rustup component add rustfmt",
        optional: false,
    },
    Tool {
        name: "clippy",
        probe: &["cargo", "clippy", "--version"],
        needed_for: "the lints",
        how: "rustup component add clippy",
        optional: false,
    },
    Tool {
        name: "C compiler",
        probe: &["cc", "--version"],
        needed_for: "linking",
        how: "apt-get install gcc libc6-dev (or your system's like)",
        optional: false,
    },
    Tool {
        name: "git",
        probe: &["git", "--version"],
        needed_for: "the house rules (list of files)",
        how: "apt-get install git",
        optional: false,
    },
    Tool {
        name: "nextest",
        probe: &["cargo", "nextest", "--version"],
        needed_for: "nothing; tests run by it if it is there, by cargo test otherwise",
        how: "cargo install --locked cargo-nextest",
        optional: true,
    },
    Tool {
        name: "go",
        probe: &["go", "version"],
        needed_for: "building grpcurl",
        how: "install Go, or put grpcurl 1.9 on the PATH yourself",
        optional: true,
    },
];

/// What was found.
pub(crate) struct Found {
    /// Tests are run by nextest.
    pub(crate) nextest: bool,
    /// Where grpcurl is, if it is anywhere.
    pub(crate) grpcurl: Option<PathBuf>,
    /// Python, new enough, if it is anywhere.
    pub(crate) python: Option<PathBuf>,
    /// Nothing that is needed is missing.
    pub(crate) complete: bool,
}

/// Looks for everything and says what is missing; installs grpcurl if Go is there.
pub(crate) fn find() -> Found {
    println!("── tools ───────────────────────────────────────────────");
    let mut complete = true;
    for tool in TOOLS_WANTED {
        if let Some(version) = probe(tool.probe) {
            println!("found    {:<11} {version}", tool.name);
        } else if tool.optional {
            println!("absent   {:<11} used for {}: {}", tool.name, tool.needed_for, tool.how);
        } else {
            println!("MISSING  {:<11} needed for {}: {}", tool.name, tool.needed_for, tool.how);
            complete = false;
        }
    }
    let grpcurl = grpcurl();
    match &grpcurl {
        Some(path) => println!("found    grpcurl     {}", path.display()),
        None => println!("absent   grpcurl     its tests will be SKIPPED: go install {GRPCURL}"),
    }
    let python = python::find();
    match &python {
        Some((path, version)) => println!("found    python      {version} ({})", path.display()),
        None => println!(
            "absent   python      everything in Python will be SKIPPED: install Python 3.11 or later with venv \
             (apt-get install python3-venv), or name it in KAR_PYTHON"
        ),
    }
    let nextest = probe(&["cargo", "nextest", "--version"]).is_some();
    Found { nextest, grpcurl, python: python.map(|(path, _)| path), complete }
}

/// The first line that a program prints, if it runs.
fn probe(command: &[&str]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn grpcurl() -> Option<PathBuf> {
    let own = std::env::current_dir().ok()?.join(TOOLS);
    let installed = own.join("grpcurl");
    if runs(&installed) {
        return Some(installed);
    }
    if let Some(path) = on_path("grpcurl") {
        return Some(path);
    }
    probe(&["go", "version"])?;
    println!("install  grpcurl     go install {GRPCURL} (about half a minute)");
    let status = Command::new("go")
        .args(["install", GRPCURL])
        .env("GOBIN", &own)
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .status();
    (status.is_ok_and(|s| s.success()) && runs(&installed)).then_some(installed)
}

fn runs(path: &Path) -> bool {
    let mut version = Command::new(path);
    version.arg("-version").stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| runs(file))
}
