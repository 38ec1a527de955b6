//! What the tests need besides cargo: said at the start, installed where that is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::count::without_colours;
use crate::python;

/// Version of grpcurl that the tests are written for.
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";

/// Folder of installed tools, below the workspace.
const TOOLS: &str = "target/tools";

/// Asks cargo-deny whether it is there.
const DENY: &[&str] = &["cargo", "deny", "--version"];

/// A tool, and how it is come by.
struct Tool {
    name: &'static str,
    probe: &'static [&'static str],
    /// Oldest major version that will do; 0: any.
    oldest: u32,
    needed_for: &'static str,
    how: &'static str,
    need: Need,
}

/// What it means that a tool is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing can be tested.
    Always,
    /// Everything of this language is skipped.
    Language(&'static str),
    /// As `needed_for` says.
    Optional,
}

const TOOLS_WANTED: &[Tool] = &[
    Tool {
        name: "cargo",
        probe: &["cargo", "--version"],
        oldest: 0,
        needed_for: "everything",
        how: "install Rust with rustup",
        need: Need::Always,
    },
    Tool {
        name: "rustfmt",
        probe: &["cargo", "fmt", "--version"],
        oldest: 0,
        needed_for: "the format check",
        how: "rustup component add rustfmt",
        need: Need::Always,
    },
    Tool {
        name: "clippy",
        probe: &["cargo", "clippy", "--version"],
        oldest: 0,
        needed_for: "the lints",
        how: "rustup component add clippy",
        need: Need::Always,
    },
    Tool {
        name: "C compiler",
        probe: &["cc", "--version"],
        oldest: 0,
        needed_for: "linking",
        how: "apt-get install gcc libc6-dev (or your system's like)",
        need: Need::Always,
    },
    Tool {
        name: "git",
        probe: &["git", "--version"],
        oldest: 0,
        needed_for: "the house rules (list of files)",
        how: "apt-get install git",
        need: Need::Always,
    },
    Tool {
        name: "python",
        probe: python::PROBE,
        oldest: 3,
        needed_for: "building sdk-clients/python, its samples and tests",
        how: "install Python 3.11 or later with venv and pip (apt-get install python3-venv)",
        need: Need::Language("python"),
    },
    Tool {
        name: "node",
        probe: &["node", "--version"],
        oldest: 20,
        needed_for: "JavaScript samples and tests",
        how: "install Node.js 20 or later",
        need: Need::Language("js"),
    },
    Tool {
        name: "npm",
        probe: &["npm", "--version"],
        oldest: 9,
        needed_for: "building sdk-clients/js",
        how: "it comes with Node.js",
        need: Need::Language("js"),
    },
    Tool {
        name: "JDK",
        probe: &["javac", "--version"],
        oldest: 17,
        needed_for: "building sdk-clients/java",
        how: "apt-get install openjdk-17-jdk-headless (or your system's like)",
        need: Need::Language("java"),
    },
    Tool {
        name: "java",
        probe: &["java", "--version"],
        oldest: 17,
        needed_for: "Java samples and tests",
        how: "it comes with the JDK",
        need: Need::Language("java"),
    },
    Tool {
        name: "maven",
        probe: &["mvn", "--version"],
        oldest: 3,
        needed_for: "building sdk-clients/java",
        how: "apt-get install maven (3.8 or later)",
        need: Need::Language("java"),
    },
    Tool {
        name: "nextest",
        probe: &["cargo", "nextest", "--version"],
        oldest: 0,
        needed_for: "nothing; tests run by it if it is there, by cargo test otherwise",
        how: "cargo install --locked cargo-nextest",
        need: Need::Optional,
    },
    Tool {
        name: "cargo-deny",
        probe: DENY,
        oldest: 0,
        needed_for: "the rules of deny.toml on dependencies, SKIPPED otherwise",
        how: "cargo install --locked cargo-deny",
        need: Need::Optional,
    },
    Tool {
        name: "go",
        probe: &["go", "version"],
        oldest: 0,
        needed_for: "building grpcurl",
        how: "install Go, or put grpcurl 1.9 on the PATH yourself",
        need: Need::Optional,
    },
];

/// What a test run from nothing takes on the disk, in caches of packages too, bytes; measured.
const DISK_FROM_NOTHING: u64 = 7 << 30;

/// What was found.
pub(crate) struct Found {
    /// Tests are run by nextest.
    pub(crate) nextest: bool,
    /// Where grpcurl is, if it is anywhere.
    pub(crate) grpcurl: Option<PathBuf>,
    /// Nothing that is always needed is missing.
    pub(crate) complete: bool,
    /// Languages of which a tool is missing: `python`, `js`, `java`.
    pub(crate) absent_languages: Vec<&'static str>,
}

/// Looks for everything and says what is missing; installs grpcurl if Go is there.
pub(crate) fn find() -> Found {
    println!("── tools ───────────────────────────────────────────────");
    let mut complete = true;
    let mut absent_languages = Vec::new();
    for tool in TOOLS_WANTED {
        let version = probe(tool.probe);
        if let Some(version) = version.as_ref().filter(|v| major(v) >= tool.oldest) {
            println!("found    {:<11} {version}", tool.name);
            continue;
        }
        let found = version.map(|v| format!(", {v} is too old")).unwrap_or_default();
        let Tool { name, needed_for, how, .. } = tool;
        match tool.need {
            Need::Optional => println!("absent   {name:<11} used for {needed_for}{found}: {how}"),
            Need::Language(language) => {
                println!("absent   {name:<11} {needed_for} will be SKIPPED{found}: {how}");
                absent_languages.push(language);
            }
            Need::Always => {
                println!("MISSING  {name:<11} needed for {needed_for}{found}: {how}");
                complete = false;
            }
        }
    }
    complete &= has_room();
    let grpcurl = grpcurl();
    match &grpcurl {
        Some(path) => println!("found    grpcurl     {}", path.display()),
        None => println!("absent   grpcurl     its tests will be SKIPPED: go install {GRPCURL}"),
    }
    match may_mount() {
        true => println!("found    mount       this user may mount file systems"),
        false => println!(
            "absent   mount       tests of full and read-only disks will be SKIPPED: run as root, where that may mount"
        ),
    }
    absent_languages.dedup();
    let nextest = probe(&["cargo", "nextest", "--version"]).is_some();
    Found { nextest, grpcurl, complete, absent_languages }
}

/// Says how much room the disk has. False if a first build would not fit: linkers that run out of it only say that they
/// were killed.
fn has_room() -> bool {
    let Ok(disk) = rustix::fs::statvfs(".") else { return true };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // This program is built there already, the sidecar is not.
    let is_first = !Path::new("target/debug/kar").exists();
    let gibibytes = |bytes: u64| bytes >> 30;
    let (free_gib, wanted_gib) = (gibibytes(free), gibibytes(DISK_FROM_NOTHING));
    if is_first && free < DISK_FROM_NOTHING {
        println!(
            "MISSING  disk        {free_gib} GiB are free, and a first run takes {wanted_gib} GiB: make room"
        );
        return false;
    }
    println!("found    disk        {free_gib} GiB free; a first run takes {wanted_gib} GiB");
    true
}

/// Whether this user may mount a file system in memory, as some tests do.
fn may_mount() -> bool {
    let at = std::env::temp_dir().join(format!("kar-xtask-{}", std::process::id()));
    let quietly = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).arg(&at).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if std::fs::create_dir(&at).is_err() {
        return false;
    }
    let mounted = quietly("mount", &["-t", "tmpfs", "-o", "size=64k", "kar-xtask"]);
    let unmounted = !mounted || quietly("umount", &[]);
    // What is left is an empty folder among temporary files.
    let _ = std::fs::remove_dir(&at);
    mounted && unmounted
}

/// Whether cargo-deny is there.
pub(crate) fn has_deny() -> bool {
    probe(DENY).is_some()
}

/// The first number in a version: 20 in `v20.20.2`; 0 if there is none.
fn major(version: &str) -> u32 {
    let digits = version.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The first line that a program prints, if it runs.
fn probe(command: &[&str]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Maven's first line has colours in any case.
    output.status.success().then(|| without_colours(text.lines().next().unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_read_from_what_programs_print() {
        assert_eq!(major("v20.20.2"), 20);
        assert_eq!(major("javac 17.0.15"), 17);
        assert_eq!(major("Apache Maven 3.8.7"), 3);
        assert_eq!(major("unknown"), 0);
    }
}
