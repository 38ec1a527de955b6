//! The side-effect journal: what the code of `kar-test-app` did, written past KAR, so that it shows attempts that KAR
//! undid as well.
//!
//! What it proves. A line is one `write` to a file opened for appending, so lines are whole and in the order in which
//! they were written, across processes. An attempt writes `start`, then `tick` every few milliseconds while its code
//! runs, then `end` just before it returns. Hence: code of an attempt ran at least from its `start` to its last line;
//! two attempts overlapped in time if one's `start` lies before another's last line. An `end` says only that the code
//! got that far, not that its result counted: an attempt killed between its `end` and the commit is repeated. That
//! exactly one attempt took effect is shown by the answer (which names its attempt) and by the actor's state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Environment variable that tells `kar-test-app` where the journal is.
pub const PATH_VARIABLE: &str = "KAR_TEST_JOURNAL";

/// Environment variable that tells `kar-test-app` to write of every turn, under its invocation and step: for methods
/// that write nothing themselves.
pub const TURNS_VARIABLE: &str = "KAR_TEST_JOURNAL_TURNS";

/// How much of the end of a journal tells what runs now, bytes: some hundred lines.
const TAIL_BYTES: u64 = 16 << 10;

/// A journal's file.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

/// Where code writes.
#[derive(Debug)]
pub struct JournalWriter {
    file: Option<File>,
}

/// One attempt of one invocation.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Names the attempt: process and counter.
    pub id: String,
    /// Attempt number that KAR gave it.
    pub number: u32,
    /// When its code began.
    pub start: Duration,
    /// When its code was last seen running.
    pub last: Duration,
    /// Its code reached its end.
    pub ended: bool,
}

/// A process that was stopped for a while, by the journal's clock.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    /// The process.
    pub pid: u32,
    /// When it was stopped.
    pub from: Duration,
    /// When it was woken, and could know of it: a machine that does much else does not let it run at once.
    pub until: Duration,
}

// === impl Attempt ===

impl Attempt {
    /// The process that ran it.
    ///
    /// # Panics
    ///
    /// If the program that wrote it names its attempts otherwise.
    pub fn pid(&self) -> u32 {
        pid_of(&self.id).expect("attempts are named by their processes")
    }

    /// Its code had begun at this moment, and had not reached its end, as far as it is known.
    pub fn is_open_at(&self, moment: Duration) -> bool {
        self.start <= moment && (!self.ended || moment < self.last)
    }
}

fn pid_of(id: &str) -> Option<u32> {
    id.split('-').next()?.parse().ok()
}

/// P3: when an attempt of the caller begins, what an earlier one had called runs no more.
///
/// # Panics
///
/// If it does for longer than `grace`.
#[track_caller]
pub fn assert_happens_before(caller: &[Attempt], callee: &[Attempt], grace: Duration) {
    for retry in caller.iter().skip(1) {
        for called in callee.iter().filter(|called| called.start < retry.start) {
            let overlap = called.last.saturating_sub(retry.start);
            assert!(overlap <= grace, "{called:?} runs on into its caller's {retry:?}");
        }
    }
}

// === impl Journal ===

impl Journal {
    /// A journal in this file, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The attempts by key, each list in order of their starts.
    ///
    /// # Panics
    ///
    /// If a line is malformed.
    pub fn attempts(&self) -> BTreeMap<String, Vec<Attempt>> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut all: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, key, id, number, nanos] = words[..] else { panic!("not a line: {line}") };
            let at = Duration::from_nanos(nanos.parse().expect("a time"));
            let attempts = all.entry(key.to_owned()).or_default();
            if what == "start" {
                let number = number.parse().expect("a number");
                let (id, start, last) = (id.to_owned(), at, at);
                attempts.push(Attempt { id, number, start, last, ended: false });
            } else {
                let attempt = attempts.iter_mut().find(|a| a.id == id).expect("it has started");
                attempt.last = at;
                attempt.ended |= what == "end";
            }
        }
        all
    }

    /// The attempt that began last.
    pub fn last(&self) -> Option<Attempt> {
        self.attempts().into_values().flatten().max_by_key(|attempt| attempt.start)
    }

    /// The process whose code has shown last that it runs. Looks at the end of the file alone, which takes no time:
    /// what runs now is over when a long journal has been read.
    pub fn running(&self) -> Option<u32> {
        let mut file = File::open(&self.path).ok()?;
        let begin = file.metadata().ok()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        // The first one may have been cut.
        let lines: Vec<&str> = text.lines().skip(usize::from(begin > 0)).collect();
        let mut ended = BTreeSet::new();
        for line in lines.into_iter().rev() {
            let mut words = line.split(' ');
            let (what, id) = (words.next()?, words.nth(1)?);
            if what == "end" {
                ended.insert(id);
            } else if !ended.contains(id) {
                return pid_of(id);
            }
        }
        None
    }

    /// The attempts of one key.
    pub fn of(&self, key: &str) -> Vec<Attempt> {
        self.attempts().remove(key).unwrap_or_default()
    }

    /// Fails if two attempts of a key overlapped by more than `grace`.
    ///
    /// # Panics
    ///
    /// See above.
    pub fn assert_no_overlap(&self, grace: Duration) {
        self.assert_no_overlap_but(grace, &[]);
    }

    /// As [`Journal::assert_no_overlap`], for processes of which some were frozen: see [`Journal::overlaps`].
    ///
    /// # Panics
    ///
    /// See above.
    pub fn assert_no_overlap_but(&self, grace: Duration, frozen: &[Frozen]) {
        let found = self.overlaps(grace, frozen);
        assert!(found.is_empty(), "attempts overlap: {found:#?}");
    }

    /// Attempts of a key that overlapped by more than `grace`. Code that was frozen while it ran learns only when it is
    /// woken that others have taken over, and may run on for `grace` from there.
    pub fn overlaps(&self, grace: Duration, frozen: &[Frozen]) -> Vec<String> {
        let mut found = Vec::new();
        for (key, attempts) in self.attempts() {
            for (index, first) in attempts.iter().enumerate() {
                let slept = |f: &&Frozen| {
                    first.id.starts_with(&format!("{}-", f.pid)) && first.start <= f.from
                };
                let woken = frozen.iter().filter(slept).map(|f| f.until).max();
                let may_run_until = woken.unwrap_or_default() + grace;
                for next in &attempts[index + 1..] {
                    let overlap = first.last.saturating_sub(next.start);
                    if overlap > grace && first.last > may_run_until {
                        found.push(format!("{key}: by {overlap:?}: {first:?}, {next:?}"));
                    }
                }
            }
        }
        found
    }
}

impl JournalWriter {
    /// Writes where the environment says; nowhere if it says nothing.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn from_environment() -> std::io::Result<Self> {
        let path = std::env::var_os(PATH_VARIABLE);
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: path.map(open).transpose()? })
    }

    /// Writes one line at once.
    ///
    /// # Panics
    ///
    /// If the disk is full.
    pub fn write(&self, what: &str, key: &str, id: &str, number: i32) {
        let Some(mut file) = self.file.as_ref() else { return };
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        let line = format!("{what} {key} {id} {number} {nanos}\n");
        file.write_all(line.as_bytes()).expect("the journal can be written");
    }
}
