//! Transfers under load, and the check of the books afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{AccountClient, BACK, LEDGERS, LedgerClient, Note, Statement, TellerClient, Transfer};
use crate::codec::Decode;
use crate::{Call, CallError, Client, Root};

/// How often a read of the books is tried again when the reader's own sidecar dies.
const READ_TRIES_MAX: u32 = 20;

/// Pause between two looks at books that are not settled, and two tries to read.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Most money moved by one transfer.
const AMOUNT_MAX: u64 = 20;

/// What to do.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Transfers to make.
    pub transfers: u32,
    /// No transfer begins later than this; `None`: all are made.
    pub time_limit: Option<Duration>,
    /// Accounts to move money between, at least 2.
    pub accounts: u32,
    /// Transfers at once.
    pub clients: u32,
    /// What a new account holds.
    pub opening_balance: i64,
    /// Decides who pays whom; the same seed makes the same transfers.
    pub seed: u64,
    /// How long transfers of unknown outcome may take to settle before the books are judged as they
    /// are.
    pub settle_timeout: Duration,
    /// Counts while it goes on.
    pub progress: Arc<Progress>,
}

/// How far the load is.
#[derive(Debug, Default)]
pub struct Progress {
    finished: AtomicU64,
    slowest_us: AtomicU64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Transfers made.
    pub transfers: u32,
    /// Transfers that succeeded.
    pub done: u32,
    /// Transfers that the payer had too little for.
    pub refused: u32,
    /// Transfers that failed in another way, and were not carried out.
    pub errors: u32,
    /// Transfers whose answer was lost with the connection.
    pub unknown: u32,
    /// The first error that is neither a refusal nor an unknown outcome; empty if there was none.
    pub first_error: String,
    /// Money in the bank before.
    pub sum_before: i64,
    /// Money in the bank after.
    pub sum_after: i64,
    /// Successful transfers that are missing somewhere in the books.
    pub lost: u32,
    /// Transfers that the ledger counted more than once, or an account with a wrong amount.
    pub repeated: u32,
    /// Transfers of which only one side is in the books, or that were refused and are in the books
    /// nevertheless.
    pub torn: u32,
    /// Postings that were asked for more than once, because a teller was cut off.
    pub postings_asked_again: u32,
    /// Whether the sums agree and nothing is lost, repeated or torn.
    pub balanced: bool,
    /// How long the transfers took, seconds.
    pub seconds: f64,
    /// Transfers a second.
    pub per_second: f64,
    /// Latency of a transfer, median, ms.
    pub p50_ms: f64,
    /// Latency of a transfer, 99 of 100, ms.
    pub p99_ms: f64,
    /// Latency of the slowest transfer, ms.
    pub slowest_ms: f64,
}

/// The load could not be made, or the books not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The options make no sense.
    #[error("a load needs at least 2 accounts, 1 client and 1 transfer")]
    Options,
    /// A call failed that is needed to open or read the books.
    #[error("cannot {what}: {error}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// What it came to in the end.
        error: CallError,
    },
    /// A task of the load ended early.
    #[error("a client of the load stopped: {0}")]
    Stopped(String),
}

/// How one transfer ended, for its client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    Refused,
    Failed,
    Unknown,
}

/// All accounts and ledgers.
struct Books {
    accounts: BTreeMap<String, Statement>,
    ledger: BTreeMap<String, u32>,
}

/// What the books say.
#[derive(Default)]
struct Judgement {
    lost: u32,
    repeated: u32,
    torn: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            transfers: 2_000,
            time_limit: None,
            accounts: 100,
            clients: 64,
            opening_balance: 1_000,
            seed: 1,
            settle_timeout: Duration::from_secs(30),
            progress: Arc::default(),
        }
    }
}

impl Progress {
    /// Transfers that have an answer, of any kind.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// The slowest transfer so far.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.load(Ordering::Relaxed))
    }
}

/// Opens accounts, makes transfers between them, and checks the books.
///
/// # Errors
/// The books cannot be opened or read. What becomes of single transfers is in the report.
pub async fn load(client: &Client, options: &LoadOptions) -> Result<Report, LoadError> {
    if options.accounts < 2 || options.clients < 1 || options.transfers < 1 {
        return Err(LoadError::Options);
    }
    let mut sum_before = 0;
    for account in 0..options.accounts {
        let account = AccountClient::new(client, account_name(account));
        sum_before += again("open the accounts", || account.open(options.opening_balance)).await?;
    }
    // Accounts may have had turns before; this run's transfers have names of their own.
    let run = uuid::Uuid::now_v7().simple().to_string();
    let start = Instant::now();
    let clients = (0..options.clients)
        .map(|n| tokio::spawn(transfers(client.clone(), options.clone(), run.clone(), n)));
    let clients: Vec<_> = clients.collect();
    let (mut ended, mut times, mut first_error) = (Vec::new(), Vec::new(), String::new());
    for client in clients {
        let results = client.await.map_err(|e| LoadError::Stopped(e.to_string()))?;
        for (transfer, outcome, time, error) in results {
            times.push(time);
            if first_error.is_empty() {
                first_error = error;
            }
            ended.push((transfer, outcome));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let (books, judgement) = settled_books(client, options, &ended).await?;
    let sum_after = books.accounts.values().map(|statement| statement.balance).sum();
    let Judgement { lost, repeated, torn } = judgement;
    times.sort_unstable();
    let count = |wanted| u32::try_from(ended.iter().filter(|(_, e)| *e == wanted).count());
    let count = |wanted| count(wanted).unwrap_or(u32::MAX);
    let transfers = u32::try_from(ended.len()).unwrap_or(u32::MAX);
    Ok(Report {
        transfers,
        done: count(Ended::Done),
        refused: count(Ended::Refused),
        errors: count(Ended::Failed),
        unknown: count(Ended::Unknown),
        first_error,
        sum_before,
        sum_after,
        lost,
        repeated,
        torn,
        postings_asked_again: books.asked_again(&run),
        balanced: sum_before == sum_after && lost + repeated + torn == 0,
        seconds,
        per_second: f64::from(transfers) / seconds,
        p50_ms: quantile(&times, 50),
        p99_ms: quantile(&times, 99),
        slowest_ms: quantile(&times, 100),
    })
}

/// One client: every `clients`-th transfer, one after the other.
async fn transfers(
    client: Client,
    options: LoadOptions,
    run: String,
    first: u32,
) -> Vec<(Transfer, Ended, Duration, String)> {
    let teller = TellerClient::new(&client);
    let mut results = Vec::new();
    let begun = Instant::now();
    for number in (first..options.transfers).step_by(options.clients as usize) {
        if options.time_limit.is_some_and(|limit| begun.elapsed() >= limit) {
            break;
        }
        let order = order(&options, &run, number);
        let start = Instant::now();
        let result = teller.transfer(order.clone()).await;
        let time = start.elapsed();
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        options.progress.slowest_us.fetch_max(micros, Ordering::Relaxed);
        options.progress.finished.fetch_add(1, Ordering::Relaxed);
        let (ended, error) = match result {
            Ok(()) => (Ended::Done, String::new()),
            Err(CallError::Unknown(_)) => (Ended::Unknown, String::new()),
            Err(CallError::Application(e)) if e.code == "insufficient_funds" => {
                (Ended::Refused, String::new())
            }
            Err(other) => (Ended::Failed, other.to_string()),
        };
        results.push((order, ended, time, error));
    }
    results
}

fn order(options: &LoadOptions, run: &str, number: u32) -> Transfer {
    let mut random = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(number);
    let mut next = |bound: u64| {
        // splitmix64
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    };
    let accounts = u64::from(options.accounts);
    let from = next(accounts);
    let to = (from + 1 + next(accounts - 1)) % accounts;
    let amount = 1 + next(AMOUNT_MAX);
    Transfer {
        id: format!("{run}-{number}"),
        from: format!("a{from}"),
        to: format!("a{to}"),
        amount: i64::try_from(amount).unwrap_or(1),
    }
}

fn account_name(number: u32) -> String {
    format!("a{number}")
}

/// Reads the books until they are in order, or have had time enough to get so: what was told may
/// still be on its way, and so may transfers whose answer was lost.
async fn settled_books(
    client: &Client,
    options: &LoadOptions,
    ended: &[(Transfer, Ended)],
) -> Result<(Books, Judgement), LoadError> {
    let start = Instant::now();
    loop {
        let books = Books::read(client, options).await?;
        let judgement = books.judge(ended);
        let settled = judgement.lost + judgement.torn == 0;
        if settled || start.elapsed() >= options.settle_timeout {
            return Ok((books, judgement));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Books {
    async fn read(client: &Client, options: &LoadOptions) -> Result<Self, LoadError> {
        let (mut accounts, mut ledger) = (BTreeMap::new(), BTreeMap::new());
        for name in (0..options.accounts).map(account_name) {
            let account = AccountClient::new(client, &name);
            let statement = again("read an account", || account.audit()).await?;
            accounts.insert(name, statement);
        }
        for number in 0..LEDGERS {
            let page = LedgerClient::new(client, number.to_string());
            ledger.append(&mut again("read the ledger", || page.audit()).await?);
        }
        Ok(Self { accounts, ledger })
    }

    fn judge(&self, ended: &[(Transfer, Ended)]) -> Judgement {
        let mut judgement = Judgement::default();
        for (transfer, ended) in ended {
            let paid = self.note(&transfer.from, &transfer.id);
            let got = self.note(&transfer.to, &transfer.id);
            let back = self.note(&transfer.from, &format!("{}{BACK}", transfer.id));
            let counted = self.ledger.get(&transfer.id).copied().unwrap_or(0);
            let wrong = |note: Option<Note>, amount| note.is_some_and(|n| n.amount != amount);
            if counted > 1 || wrong(paid, -transfer.amount) || wrong(got, transfer.amount) {
                judgement.repeated += 1;
                continue;
            }
            let complete = paid.is_some() && got.is_some() && back.is_none() && counted == 1;
            let absent = paid.is_some() == back.is_some() && got.is_none() && counted == 0;
            match ended {
                Ended::Done if !complete => judgement.lost += 1,
                Ended::Refused | Ended::Failed if !absent => judgement.torn += 1,
                Ended::Unknown if !complete && !absent => judgement.torn += 1,
                _ => {}
            }
        }
        judgement
    }

    fn note(&self, account: &str, transfer: &str) -> Option<Note> {
        self.accounts.get(account)?.notes.get(transfer).copied()
    }

    fn asked_again(&self, run: &str) -> u32 {
        let notes = self.accounts.values().flat_map(|statement| &statement.notes);
        notes.filter(|(id, _)| id.starts_with(run)).map(|(_, note)| note.asked - 1).sum()
    }
}

/// Makes a call that does no harm twice, until its outcome is known.
async fn again<R: Decode + 'static>(
    what: &'static str,
    call: impl Fn() -> Call<R, Root>,
) -> Result<R, LoadError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Ok(result) => return Ok(result),
            Err(CallError::Unknown(_) | CallError::Unavailable(_)) if tries < READ_TRIES_MAX => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(LoadError::Call { what, error }),
        }
    }
}

/// Of sorted times, in ms.
fn quantile(times: &[Duration], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(paid: u32, got: u32, counted: u32) -> Books {
        let statement = |amount, count: u32| Statement {
            balance: 0,
            notes: (0..count).map(|_| ("x".to_owned(), Note { amount, asked: 1 })).collect(),
        };
        let accounts = [("a0", statement(-5, paid)), ("a1", statement(5, got))];
        Books {
            accounts: accounts.map(|(name, s)| (name.to_owned(), s)).into(),
            ledger: [("x".to_owned(), counted)].into(),
        }
    }

    #[test]
    fn the_judge_sees_through_the_books() {
        let transfer = Transfer { id: "x".into(), from: "a0".into(), to: "a1".into(), amount: 5 };
        let judge = |books: Books, ended| {
            let Judgement { lost, repeated, torn } = books.judge(&[(transfer.clone(), ended)]);
            (lost, repeated, torn)
        };
        assert_eq!(judge(books(1, 1, 1), Ended::Done), (0, 0, 0));
        assert_eq!(judge(books(1, 0, 0), Ended::Done), (1, 0, 0));
        assert_eq!(judge(books(1, 1, 0), Ended::Done), (1, 0, 0));
        assert_eq!(judge(books(1, 1, 2), Ended::Done), (0, 1, 0));
        assert_eq!(judge(books(0, 0, 0), Ended::Refused), (0, 0, 0));
        assert_eq!(judge(books(1, 0, 0), Ended::Refused), (0, 0, 1));
        assert_eq!(judge(books(1, 0, 0), Ended::Unknown), (0, 0, 1));
        assert_eq!(judge(books(1, 1, 1), Ended::Unknown), (0, 0, 0));
        let mut wrong = books(1, 1, 1);
        wrong.accounts.get_mut("a1").unwrap().notes.get_mut("x").unwrap().amount = 6;
        assert_eq!(judge(wrong, Ended::Done), (0, 1, 0));
    }

    #[test]
    fn transfers_follow_from_the_seed() {
        let options = LoadOptions { accounts: 2, ..LoadOptions::default() };
        for number in 0..100 {
            let first = order(&options, "r", number);
            assert_eq!(first, order(&options, "r", number));
            assert_ne!(first.from, first.to);
            assert!((1..=20).contains(&first.amount));
        }
    }
}
