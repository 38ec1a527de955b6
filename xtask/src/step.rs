//! Runs one program after another, each within a time limit, and keeps the score.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::count::{Count, Skipped};

/// Steps of one run, in order.
#[derive(Default)]
pub(crate) struct Runner {
    only: Vec<String>,
    /// Swallow what the programs print; for this module's own tests, whose output is itself counted.
    quiet: bool,
    results: Vec<Done>,
}

/// A step that ran.
struct Done {
    name: String,
    ok: bool,
    note: String,
    count: Count,
    /// What of it did not run, by the reason, with how often.
    skipped: BTreeMap<String, u64>,
    took: Duration,
}

/// What a program's tests have said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Said {
    count: Count,
    /// Tests that have passed for their runner, and have looked at nothing.
    pretended: u64,
    skipped: BTreeMap<String, u64>,
}

impl Said {
    fn add(&mut self, line: Line) {
        match line {
            Line::Count(count) => self.count += count,
            Line::Skipped(Skipped { reason, all }) => {
                *self.skipped.entry(reason).or_default() += 1;
                self.pretended += u64::from(all);
            }
        }
    }

    /// When the program has ended: how many ran, and how many did not.
    fn counted(&self) -> Count {
        let passed = self.count.passed.saturating_sub(self.pretended);
        Count { passed, skipped: self.count.skipped + self.pretended, ..self.count }
    }
}

impl Runner {
    /// Runs steps whose name contains one of `only`; all if it is empty.
    pub(crate) fn new(only: &[String]) -> Self {
        Self { only: only.to_vec(), ..Self::default() }
    }

    /// Runs a program within `limit`. Its tests count; a program without tests counts as one. Later steps run in any
    /// case; returns whether this one went well (or was not wanted).
    pub(crate) fn run(&mut self, name: &str, limit: Duration, command: &mut Command) -> bool {
        if !self.wanted(name) {
            return true;
        }
        self.header(name, &format!("{command:?}"));
        let start = Instant::now();
        let (ok, note, said) = match execute(command, limit, self.quiet) {
            Ok(Run::Exited { ok, said }) => (ok, String::new(), said),
            Ok(Run::TimedOut { said }) => (false, format!("killed after {limit:?}"), said),
            Err(error) => (false, format!("{error:#}"), Said::default()),
        };
        let mut count = said.counted();
        if count == Count::default() {
            count.passed = 1;
        }
        if !ok && count.failed == 0 {
            // It broke off without saying how many failed: at least one did, and what never ran is not known.
            count = Count { passed: count.passed.saturating_sub(1), failed: 1, ..count };
        }
        self.done(name, ok, note, count, start);
        if let Some(done) = self.results.last_mut() {
            done.skipped = said.skipped;
        }
        ok
    }

    /// Runs a check inside this program; it counts as one test.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        if !self.wanted(name) {
            return true;
        }
        self.header(name, "house rules, in xtask");
        let start = Instant::now();
        let result = check();
        let ok = result.is_ok();
        let note = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
        let count = Count { passed: u64::from(ok), failed: u64::from(!ok), skipped: 0 };
        self.done(name, ok, note, count, start);
        ok
    }

    /// Notes a step that cannot run here, loudly; it is neither passed nor failed.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        if self.wanted(name) {
            println!("\n!! SKIPPED: {name}: {reason}");
            self.done(name, true, "SKIPPED".into(), Count::default(), Instant::now());
            if let Some(done) = self.results.last_mut() {
                done.skipped.insert(reason.to_owned(), 1);
            }
        }
    }

    /// Prints all steps with their times, and the totals as the last line.
    pub(crate) fn finish(self) -> ExitCode {
        if self.results.is_empty() {
            // A word that was mistyped would pass.
            println!(
                "\nno step has a name with {}; without --only all steps are shown",
                self.only.join(" or ")
            );
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
        let mut total = Count::default();
        println!("\n── summary ─────────────────────────────────────────────");
        for done in &self.results {
            let mark = if done.ok { "ok  " } else { "FAIL" };
            let Count { passed, failed, skipped } = done.count;
            let seconds = done.took.as_secs_f64();
            print!("{mark} {:<28} {seconds:>7.1} s  {passed} passed, {failed} failed", done.name);
            if skipped > 0 {
                print!(", {skipped} SKIPPED");
            }
            println!("{}{}", if done.note.is_empty() { "" } else { "  " }, done.note);
            total += done.count;
        }
        let ok = self.results.iter().all(|done| done.ok);
        for line in self.skipped() {
            println!("{line}");
        }
        println!("{} passed, {} failed", total.passed, total.failed);
        if ok && total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// What did not run, and why; none of it is among what passed.
    fn skipped(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for done in &self.results {
            for (reason, times) in &done.skipped {
                let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
                lines.push(format!("SKIP {:<28} {reason}{times}", done.name));
            }
        }
        lines
    }

    fn wanted(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    fn header(&self, name: &str, what: &str) {
        println!("\n── step {}: {name} ── {what}", self.results.len() + 1);
    }

    fn done(&mut self, name: &str, ok: bool, note: String, count: Count, start: Instant) {
        let took = start.elapsed();
        let word = if ok { "done" } else { "FAILED" };
        println!("── {word}: {name} in {:.1} s {note}", took.as_secs_f64());
        let skipped = BTreeMap::new();
        self.results.push(Done { name: name.into(), ok, note, count, skipped, took });
    }
}

enum Run {
    Exited { ok: bool, said: Said },
    TimedOut { said: Said },
}

/// A line that is not only passed on.
enum Line {
    Count(Count),
    Skipped(Skipped),
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let skipped = Skipped::parse(line).map(Self::Skipped);
        skipped.or_else(|| Count::parse(line).map(Self::Count))
    }
}

/// Runs a program in a process group of its own, passes its output on, and kills the group at the limit.
fn execute(command: &mut Command, limit: Duration, quiet: bool) -> Result<Run> {
    let deadline = Instant::now() + limit;
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    // Both streams end when the program (and whoever inherited them) has ended; bounded by the pipe, not by memory.
    let (sender, lines) = mpsc::sync_channel(1024);
    let readers = [
        pass_on(child.stdout.take(), sender.clone(), quiet),
        pass_on(child.stderr.take(), sender, quiet),
    ];
    let mut said = Said::default();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => said.add(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                kill(&mut child)?;
                return Ok(Run::TimedOut { said });
            }
        }
    }
    for reader in readers {
        reader.join().ok().context("pass output on")?.context("pass output on")?;
    }
    let ok = child.wait().context("wait for the program")?.success();
    Ok(Run::Exited { ok, said })
}

/// Copies lines to this program's output, and reports the summaries among them.
fn pass_on(
    stream: Option<impl Read + Send + 'static>,
    lines: mpsc::SyncSender<Line>,
    quiet: bool,
) -> thread::JoinHandle<io::Result<()>> {
    thread::spawn(move || {
        let Some(stream) = stream else { return Ok(()) };
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if !quiet {
                io::stdout().write_all(&line)?;
            }
            if let Some(line) = Line::parse(&String::from_utf8_lossy(&line)) {
                // Nobody listens any more once the time is up.
                if lines.send(line).is_err() {
                    return Ok(());
                }
            }
            line.clear();
        }
        Ok(())
    })
}

fn kill(child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process_group(pid, Signal::KILL).context("kill the process group")?;
    child.wait().context("wait for the killed program")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hanging_step_is_killed_with_its_children() {
        let mut runner = Runner { quiet: true, ..Runner::default() };
        let script = "echo 'test result: ok. 3 passed; 0 failed;'; sleep 600 & wait";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        assert!(!runner.run("hang", Duration::from_millis(300), &mut command));
        assert_eq!(runner.results[0].count, Count { passed: 2, failed: 1, skipped: 0 });
        assert!(runner.results[0].took < Duration::from_secs(60));
    }

    #[test]
    fn tests_of_a_step_are_added_up() {
        let mut runner = Runner { quiet: true, ..Runner::default() };
        let script = "for i in 1 2; do echo 'test result: ok. 3 passed; 1 failed;'; done; exit 1";
        let mut command = Command::new("sh");
        assert!(!runner.run("two", Duration::from_secs(60), command.args(["-c", script])));
        assert_eq!(runner.results[0].count, Count { passed: 6, failed: 2, skipped: 0 });
        assert!(!runner.run("none", Duration::from_secs(60), &mut Command::new("false")));
        assert_eq!(runner.results[1].count, Count { passed: 0, failed: 1, skipped: 0 });
        assert!(runner.run("fine", Duration::from_secs(60), &mut Command::new("true")));
        assert_eq!(runner.results[2].count, Count { passed: 1, failed: 0, skipped: 0 });
    }

    #[test]
    fn skipped_tests_are_none_that_passed_and_say_why() {
        let mut runner = Runner { quiet: true, ..Runner::default() };
        let script = "echo 'SKIPPED: no disk'; echo 'SKIPPED: no disk'; echo 'SKIPPED in part: no mount'; \
                      echo 'test result: ok. 5 passed; 0 failed;'";
        let mut command = Command::new("sh");
        assert!(runner.run("some", Duration::from_secs(60), command.args(["-c", script])));
        assert_eq!(runner.results[0].count, Count { passed: 3, failed: 0, skipped: 2 });
        let mut command = Command::new("sh");
        let script = "echo 'SKIPPED: no disk'; echo 'test result: ok. 1 passed; 0 failed;'";
        assert!(runner.run("all", Duration::from_secs(60), command.args(["-c", script])));
        assert_eq!(runner.results[1].count, Count { passed: 0, failed: 0, skipped: 1 });
        let lines: Vec<_> = runner
            .skipped()
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let wanted = ["SKIP some no disk (2 times)", "SKIP some no mount", "SKIP all no disk"];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn a_word_that_names_no_step_is_no_success() {
        let mut runner = Runner::new(&["pyhton".to_owned()]);
        assert!(runner.check("python: types", || Ok(())), "it is not wanted");
        assert_eq!(format!("{:?}", runner.finish()), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn only_wanted_steps_run() {
        let mut runner = Runner::new(&["clip".to_owned()]);
        assert!(runner.run("unit tests", Duration::from_secs(60), &mut Command::new("false")));
        assert!(!runner.run("clippy", Duration::from_secs(60), &mut Command::new("false")));
        assert_eq!(runner.results.len(), 1);
    }
}
