//! Runs one program after another, each within a time limit, and keeps the score.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::count::Count;

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
    took: Duration,
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
        let (ok, note, mut count) = match execute(command, limit, self.quiet) {
            Ok(Run::Exited { ok, count }) => (ok, String::new(), count),
            Ok(Run::TimedOut { count }) => (false, format!("killed after {limit:?}"), count),
            Err(error) => (false, format!("{error:#}"), Count::default()),
        };
        if count.passed + count.failed == 0 {
            count.passed = 1;
        }
        if ok || count.failed > 0 {
            self.done(name, ok, note, count, start);
        } else {
            // It broke off without saying how many failed: at least one did, and what never ran is not known.
            let passed = count.passed.saturating_sub(1);
            self.done(name, ok, note, Count { passed, failed: 1, ..count }, start);
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
            self.done(name, true, format!("SKIPPED: {reason}"), Count::default(), Instant::now());
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
                print!(", {skipped} of them SKIPPED (see above)");
            }
            println!("{}{}", if done.note.is_empty() { "" } else { "  " }, done.note);
            total += done.count;
        }
        let ok = self.results.iter().all(|done| done.ok);
        println!("{} passed, {} failed", total.passed, total.failed);
        if ok && total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        self.results.push(Done { name: name.into(), ok, note, count, took });
    }
}

enum Run {
    Exited { ok: bool, count: Count },
    TimedOut { count: Count },
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
    let mut count = Count::default();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => count += line,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                kill(&mut child)?;
                return Ok(Run::TimedOut { count });
            }
        }
    }
    for reader in readers {
        reader.join().ok().context("pass output on")?.context("pass output on")?;
    }
    let ok = child.wait().context("wait for the program")?.success();
    Ok(Run::Exited { ok, count })
}

/// Copies lines to this program's output, and reports the summaries among them.
fn pass_on(
    stream: Option<impl Read + Send + 'static>,
    counts: mpsc::SyncSender<Count>,
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
            if let Some(count) = Count::parse(&String::from_utf8_lossy(&line)) {
                // Nobody listens any more once the time is up.
                if counts.send(count).is_err() {
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
