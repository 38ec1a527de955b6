//! Places orders, and checks afterwards that customers were told of each that was taken, once and in order.

use std::time::{Duration, Instant};

use futures_util::future;
use serde::Serialize;
use tokio::time::sleep;

use super::{Account, CARD_MAX, CustomerClient, Order};
use crate::codec::Decode;
use crate::{Call, CallError, Client, Root};

/// Pause between two tries when the load's own sidecar dies, and between two looks at an account.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often a call is tried again then.
const TRIES_MAX: u32 = 20;

/// How long accounts may stand still that are not as they should be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of so many orders of a customer one is too dear.
const DECLINED_EVERY: u64 = 5;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Orders to place.
    pub orders: u64,
    /// Customers, who place theirs one after the other, all at once.
    pub customers: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The day: an attribute of all its events.
    pub day: String,
    /// Orders that were taken.
    pub taken: u64,
    /// What they cost together.
    pub cents: i64,
    /// Orders that were declined.
    pub declined: u64,
    /// Customers who were told too much, too little, or in another order.
    pub wrong: Vec<String>,
    /// Whether everything fits.
    pub right: bool,
    /// How long the orders took, seconds.
    pub seconds: f64,
    /// How long after the last one the last customer was told, seconds.
    pub behind: f64,
}

/// Orders could not be placed, or customers not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrdersError {
    /// The options make no sense.
    #[error("a load needs at least 1 order and 1 customer")]
    Options,
    /// A call failed.
    #[error("cannot {what}: {error}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// What it came to in the end.
        error: CallError,
    },
}

/// What one customer has done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Placed {
    customer: String,
    expected: Account,
    declined: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { orders: 400, customers: 20 }
    }
}

/// Places the orders of a new day, waits until customers have been told of them, and compares.
///
/// # Errors
/// An order cannot be placed, or a customer not be asked. What does not fit is in the report.
pub async fn place(client: &Client, options: LoadOptions) -> Result<Report, OrdersError> {
    if options.orders < 1 || options.customers < 1 {
        return Err(OrdersError::Options);
    }
    let day = uuid::Uuid::now_v7().simple().to_string();
    tracing::info!(day, options.orders, options.customers, "placing orders");
    let start = Instant::now();
    let customers = (0..options.customers).map(|one| orders_of(client, &day, one, options));
    let placed = future::try_join_all(customers).await?;
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!("all are placed; waiting until customers have been told");
    let told = Instant::now();
    let accounts = future::try_join_all(placed.iter().map(|one| account_of(client, one))).await?;
    let behind = told.elapsed().as_secs_f64();
    let wrong = judge(&placed, &accounts);
    Ok(Report {
        taken: placed.iter().map(|one| one.expected.orders).sum(),
        cents: placed.iter().map(|one| one.expected.cents).sum(),
        declined: placed.iter().map(|one| one.declined).sum(),
        right: wrong.is_empty(),
        day,
        wrong,
        seconds,
        behind,
    })
}

/// A customer's orders, one after the other.
async fn orders_of(
    client: &Client,
    day: &str,
    customer: u64,
    options: LoadOptions,
) -> Result<Placed, OrdersError> {
    let customer_id = format!("{day}-{customer}");
    // One owner takes all of them, so they are published in the order in which they are taken.
    let shop = client.service("shop").affinity_key(&customer_id);
    let mut expected = Account::default();
    let mut declined = 0;
    for number in (customer..options.orders).step_by(step(options.customers)) {
        let dear = (number / options.customers + customer).is_multiple_of(DECLINED_EVERY);
        let order = Order {
            id: format!("{day}-order-{number}"),
            customer: customer_id.clone(),
            number: expected.orders + 1,
            cents: if dear { CARD_MAX + 1 } else { cents(number) },
            day: day.to_owned(),
        };
        // Asked again it is the same order, whatever had become of the answer.
        let call = || shop.call::<()>("order", &order).idempotency_key(&order.id);
        match again("place an order", call).await {
            Ok(()) => {
                expected.orders += 1;
                expected.cents += order.cents;
            }
            Err(OrdersError::Call { error, .. }) if is_declined(&error) => declined += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(Placed { customer: customer_id, expected, declined })
}

fn step(customers: u64) -> usize {
    usize::try_from(customers).unwrap_or(usize::MAX)
}

/// Something between 1 and what a card pays.
fn cents(number: u64) -> i64 {
    i64::try_from(number * 37 % CARD_MAX.unsigned_abs()).unwrap_or(0) + 1
}

fn is_declined(error: &CallError) -> bool {
    error.application().is_some_and(|error| error.code == "declined")
}

/// What a customer was told, when it is what was expected, or does not become more.
async fn account_of(client: &Client, placed: &Placed) -> Result<Account, OrdersError> {
    let customer = CustomerClient::new(client, &placed.customer);
    let mut known = Account::default();
    let mut since = Instant::now();
    loop {
        let account = again("ask a customer", || customer.account()).await?;
        if account.orders >= placed.expected.orders || since.elapsed() > PATIENCE {
            return Ok(account);
        }
        if account != known {
            (known, since) = (account, Instant::now());
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Whose account is not as it should be.
fn judge(placed: &[Placed], accounts: &[Account]) -> Vec<String> {
    let pairs = placed.iter().zip(accounts);
    pairs
        .filter(|(placed, account)| placed.expected != **account)
        .map(|(placed, account)| {
            format!("{}: {account:?} instead of {:?}", placed.customer, placed.expected)
        })
        .collect()
}

/// Makes a call until its outcome is known: asking twice does no harm.
async fn again<R: Decode + 'static>(
    what: &'static str,
    call: impl Fn() -> Call<R, Root>,
) -> Result<R, OrdersError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Ok(result) => return Ok(result),
            Err(CallError::Unknown(_) | CallError::Unavailable(_)) if tries < TRIES_MAX => {
                sleep(ASK_AGAIN).await;
            }
            Err(error) => return Err(OrdersError::Call { what, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_sees_what_was_lost_repeated_or_misplaced() {
        let expected = Account { orders: 2, cents: 50, misplaced: 0 };
        let placed = vec![Placed { customer: "a".into(), expected, declined: 1 }];
        assert_eq!(judge(&placed, &[expected]), Vec::<String>::new());
        for wrong in [
            Account { orders: 1, cents: 20, misplaced: 0 },
            Account { orders: 3, cents: 80, misplaced: 1 },
            Account { misplaced: 2, ..expected },
        ] {
            let [text] = &judge(&placed, &[wrong])[..] else { panic!("{wrong:?} is not seen") };
            assert!(text.starts_with("a: "), "{text}");
        }
    }

    #[test]
    fn a_card_pays_every_order_but_those_that_are_too_dear() {
        assert!((0..20_000).all(|number| (1..=CARD_MAX).contains(&cents(number))));
    }
}
