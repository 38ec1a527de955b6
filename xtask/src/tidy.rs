//! The house rules that no other tool checks. Each finding names file and line.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Longest line of code, characters. `rustfmt` breaks code at 100; strings and comments may need a little more.
const LINE_MAX: usize = 120;

/// Longer files are listed, so that somebody asks whether they are two.
const FILE_LINES_REPORTED: usize = 400;

/// Longer files say at their heads why they are one.
const FILE_LINES_EXPLAINED: usize = 600;

/// The words by which they do.
const EXPLAINED: &str = "//! Longer than most: ";

/// Endings of files whose lines are checked for length.
const CODE: &[&str] = &["rs", "proto", "sh", "py", "js", "ts", "java"];

/// Files that tools write, and that are as they are.
const GENERATED: &[&str] = &["Cargo.lock"];

/// Words that say that something is unfinished; fine with the number of an issue (`#12`) on the same line.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Paths and hosts of somebody's machine or mirror, which must not get into the sources. Split, so that this file does
/// not find itself.
const MACHINE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org/simple"),
    concat!("registry.npm", "js"),
    concat!("repo.maven.", "apache"),
    concat!("repo1.ma", "ven"),
    concat!("proxy.go", "lang"),
];

/// Where tests may wait by the clock: the one helper that polls a condition.
const MAY_SLEEP: &str = "tests/harness/wait.rs";

/// What `kar-core` may depend on: nothing that knows of IO, time or threads. (`jiff` computes with the time zones that
/// are built into it; what the clock says is an argument.)
const CORE_DEPENDENCIES: &[&str] = &["bytes", "thiserror", "jiff", "indexmap", "smallvec"];

/// Checks every file that git knows or would take.
pub(crate) fn check() -> Result<()> {
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("list files with git")?;
    let list = String::from_utf8(list.stdout).context("file names are UTF-8")?;
    let mut findings = Vec::new();
    let mut long = Vec::new();
    for path in list.lines().filter(|path| !GENERATED.contains(path)) {
        // A file that is listed but deleted, or binary, has no lines to check.
        let Ok(text) = fs::read_to_string(path) else { continue };
        check_text(path, &text, &mut findings);
        let lines = code_lines(&text);
        if path.ends_with(".rs") && lines > FILE_LINES_REPORTED {
            long.push((lines, path.to_owned()));
        }
        if path.ends_with(".rs") && lines > FILE_LINES_EXPLAINED && !text.contains(EXPLAINED) {
            findings.push(format!("{path}:1: {lines} lines: say at its head why, or make it two"));
        }
    }
    check_core(&mut findings)?;
    long.sort_unstable_by(|a, b| b.cmp(a));
    for (lines, path) in long {
        println!("note: {path} has {lines} lines without its tests; over {FILE_LINES_REPORTED}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    println!("{}", findings.join("\n"));
    bail!("{} findings, see above", findings.len())
}

/// Lines before a file's own tests.
fn code_lines(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

fn check_text(path: &str, text: &str, findings: &mut Vec<String>) {
    let is_code = CODE.iter().any(|ending| path.ends_with(&format!(".{ending}")));
    let mut find = |line: usize, what: &str| findings.push(format!("{path}:{line}: {what}"));
    for (line, number) in text.lines().zip(1..) {
        if is_code && line.chars().count() > LINE_MAX {
            find(number, &format!("line longer than {LINE_MAX}"));
        }
        if line.ends_with([' ', '\t']) && !path.ends_with(".md") {
            find(number, "space at the end of the line");
        }
        for word in MACHINE.iter().filter(|word| line.contains(**word)) {
            find(number, &format!("a machine's path or a registry's host: {word}"));
        }
        let has_issue =
            line.split('#').skip(1).any(|s| s.starts_with(|c: char| c.is_ascii_digit()));
        for word in UNFINISHED.iter().filter(|word| has_word(line, word) && !has_issue) {
            find(number, &format!("{word} without an issue's number"));
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            find(number, "conflict marker");
        }
        let sleeps = line.contains("time::sleep(") || line.contains("thread::sleep(");
        if path.starts_with("tests/") && path != MAY_SLEEP && sleeps {
            find(number, "a test waits for a condition, not for time; see harness/wait.rs");
        }
    }
    if is_code && !text.is_empty() && !text.ends_with('\n') {
        find(text.lines().count(), "no line end at the end of the file");
    }
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// The core stays pure: its dependencies are looked at hardest.
fn check_core(findings: &mut Vec<String>) -> Result<()> {
    let path = "sidecar/core/Cargo.toml";
    let manifest = fs::read_to_string(path).context(path)?;
    let dependencies = manifest
        .lines()
        .skip_while(|l| *l != "[dependencies]")
        .skip(1)
        .take_while(|l| !l.starts_with('['));
    for line in dependencies {
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('#') && !CORE_DEPENDENCIES.contains(&name) {
            findings.push(format!("{path}: {name} is not among the core's dependencies"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_text(path, text, &mut findings);
        findings
    }

    #[test]
    fn clean_code_is_clean() {
        assert_eq!(findings("a.rs", "fn main() {}\n"), Vec::<String>::new());
        let with_issue = format!("// {} #12: mend it\n", UNFINISHED[0]);
        assert_eq!(findings("a.rs", &with_issue), Vec::<String>::new());
        assert_eq!(findings("a.rs", &format!("let {}_LIST = 1;\n", UNFINISHED[0])).len(), 1);
    }

    #[test]
    fn each_rule_bites() {
        for (path, text) in [
            ("a.rs", "x".repeat(LINE_MAX + 1) + "\n"),
            ("a.rs", "fn main() {} \n".to_owned()),
            ("a.md", format!("see {}main\n", MACHINE[0])),
            ("a.rs", format!("// {}: later\n", UNFINISHED[0])),
            ("a.toml", "<<<<<<< HEAD\n".to_owned()),
            ("tests/e2e/a.rs", concat!("tokio::time::sl", "eep(x)\n").to_owned()),
            ("a.rs", "fn main() {}".to_owned()),
        ] {
            assert_eq!(findings(path, &text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn a_words_part_is_no_word() {
        let inside = format!("let my{}s = 1;\n", UNFINISHED[0]);
        assert_eq!(findings("a.rs", &inside), Vec::<String>::new());
    }
}
