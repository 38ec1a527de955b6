//! Sits philosophers down, watches them eat, and checks that nothing went wrong.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Diary, ForkClient, ForkState, PhilosopherClient, SEATS_MIN, Seat, place};
use crate::codec::Decode;
use crate::{Call, CallError, Client, Root};

/// Pause between two looks at the table, and two tries to look.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often a look is tried again when the onlooker's own sidecar dies.
const TRIES_MAX: u32 = 20;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct DinnerOptions {
    /// Philosophers, at least [`SEATS_MIN`].
    pub seats: u32,
    /// Meals for each.
    pub meals: u32,
    /// How long a meal takes.
    pub meal: Duration,
    /// How long they think between two meals.
    pub think: Duration,
    /// The dinner is given up if nobody finishes a meal for so long.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Philosophers.
    pub seats: u32,
    /// Meals that were to be eaten.
    pub wanted: u32,
    /// Meals that were eaten.
    pub eaten: u32,
    /// Philosophers who did not get what they were to get, or got more.
    pub unfed: u32,
    /// Forks that are not on the table, or were not used once for each meal at their sides.
    pub forks_astray: u32,
    /// What must not happen, as philosophers and forks saw it.
    pub wrong: Vec<String>,
    /// Whether everybody ate and nothing went wrong.
    pub all_ate: bool,
    /// How long it took, seconds.
    pub seconds: f64,
}

/// The dinner could not be held, or not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DinnerError {
    /// The options make no sense.
    #[error("a dinner needs at least {SEATS_MIN} philosophers and 1 meal")]
    Options,
    /// A philosopher could not be sat down.
    #[error("cannot seat philosopher {number}: {error}")]
    Seat {
        /// Number of the seat.
        number: u32,
        /// What it came to.
        error: CallError,
    },
    /// The table could not be looked at.
    #[error("cannot look at the table: {0}")]
    Look(CallError),
}

impl Default for DinnerOptions {
    fn default() -> Self {
        Self {
            seats: 5,
            meals: 20,
            meal: Duration::from_millis(20),
            think: Duration::from_millis(20),
            patience: Duration::from_secs(60),
        }
    }
}

/// Sits philosophers down at a table of their own, and waits until they have eaten.
///
/// # Errors
/// They cannot be sat down, or not be looked at. What became of the meals is in the report.
pub async fn dine(client: &Client, options: DinnerOptions) -> Result<Report, DinnerError> {
    if options.seats < SEATS_MIN || options.meals < 1 {
        return Err(DinnerError::Options);
    }
    let start = Instant::now();
    let table = uuid::Uuid::now_v7().simple().to_string();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (meal_ms, think_ms) = (millis(options.meal), millis(options.think));
    for number in 0..options.seats {
        let (table, seats, meals) = (table.clone(), options.seats, options.meals);
        let seat = Seat { table, number, seats, meals, meal_ms, think_ms };
        let hungry = PhilosopherClient::new(client, seat.philosopher()).hungry(seat);
        hungry.tell().await.map_err(|error| DinnerError::Seat { number, error })?;
    }
    let (mut eaten, mut since) = (0, Instant::now());
    loop {
        let report = look(client, &table, &options, start).await?;
        if report.all_ate || since.elapsed() >= options.patience {
            return Ok(report);
        }
        if report.eaten != eaten {
            (eaten, since) = (report.eaten, Instant::now());
            tracing::info!(eaten, of = report.wanted, "meals");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn look(
    client: &Client,
    table: &str,
    options: &DinnerOptions,
    start: Instant,
) -> Result<Report, DinnerError> {
    let (mut diaries, mut forks) = (Vec::new(), Vec::new());
    for number in 0..options.seats {
        let philosopher = PhilosopherClient::new(client, place(table, number));
        diaries.push(again(|| philosopher.audit()).await?);
        let fork = ForkClient::new(client, place(table, number));
        forks.push(again(|| fork.audit()).await?);
    }
    Ok(judge(options, &diaries, &forks, start.elapsed()))
}

fn judge(
    options: &DinnerOptions,
    diaries: &[Diary],
    forks: &[ForkState],
    took: Duration,
) -> Report {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let unfed = diaries.iter().filter(|d| d.eaten != options.meals || d.in_hand != 0).count();
    // Each fork lies between two seats.
    let astray = |fork: &&ForkState| {
        fork.holder.is_some() || !fork.waiting.is_empty() || fork.used != 2 * options.meals
    };
    let forks_astray = forks.iter().filter(astray).count();
    let wrong = diaries.iter().flat_map(|d| &d.wrong);
    let wrong: Vec<String> = wrong.chain(forks.iter().flat_map(|f| &f.wrong)).cloned().collect();
    Report {
        seats: options.seats,
        wanted: options.seats * options.meals,
        eaten: diaries.iter().map(|d| d.eaten).sum(),
        unfed: count(unfed),
        forks_astray: count(forks_astray),
        all_ate: unfed + forks_astray + wrong.len() == 0,
        wrong,
        seconds: took.as_secs_f64(),
    }
}

/// Looks until the outcome is known: looking twice does no harm.
async fn again<R: Decode + 'static>(call: impl Fn() -> Call<R, Root>) -> Result<R, DinnerError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Ok(result) => return Ok(result),
            Err(CallError::Unknown(_) | CallError::Unavailable(_)) if tries < TRIES_MAX => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(DinnerError::Look(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_fork_comes_first_at_every_seat() {
        let seat = |number| Seat {
            table: "t".into(),
            number,
            seats: 3,
            meals: 1,
            meal_ms: 0,
            think_ms: 0,
        };
        assert_eq!([0, 1, 2].map(|n| seat(n).forks()), [[0, 1], [1, 2], [0, 2]]);
    }

    #[test]
    fn the_judge_sees_what_is_missing_and_what_is_too_much() {
        let options = DinnerOptions { seats: 2, meals: 3, ..DinnerOptions::default() };
        let fed = Diary { eaten: 3, ..Diary::default() };
        let fork = ForkState { used: 6, ..ForkState::default() };
        let judge = |diary: Diary, fork: ForkState| {
            let diaries = [diary, fed.clone()];
            judge(&options, &diaries, &[fork.clone(), fork], Duration::ZERO)
        };
        assert!(judge(fed.clone(), fork.clone()).all_ate);
        for eaten in [2, 4] {
            let report = judge(Diary { eaten, ..Diary::default() }, fork.clone());
            assert_eq!((report.all_ate, report.unfed, report.eaten), (false, 1, 3 + eaten));
        }
        let report = judge(fed.clone(), ForkState { used: 5, ..fork.clone() });
        assert_eq!((report.all_ate, report.forks_astray), (false, 2));
        assert!(!judge(fed.clone(), ForkState { holder: Some(1), ..fork.clone() }).all_ate);
        assert!(!judge(Diary { wrong: vec!["x".into()], ..fed.clone() }, fork).all_ate);
    }
}
