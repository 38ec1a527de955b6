//! Places orders, and checks afterwards that each was carried out once and completely, or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future;
use serde::Serialize;

use super::{Cart, CourierClient, NOWHERE, OrderClient, Outcome, StockClient, WalletClient};
use crate::codec::Decode;
use crate::{Call, CallError, Client, Root};

/// Pause between two tries when the shop's own sidecar dies.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often a call is tried again then.
const TRIES_MAX: u32 = 20;

/// Items, customers and regions (the last one is [`NOWHERE`]) that orders are about.
const ITEMS: u32 = 5;
const CUSTOMERS: u32 = 8;
const REGIONS: u32 = 4;

/// Price of one piece.
const PRICE: i64 = 10;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct ShopOptions {
    /// Orders to place.
    pub orders: u32,
    /// Orders at once.
    pub clients: u32,
    /// How long it takes to get a parcel's number.
    pub number: Duration,
}

/// Orders that were not carried out, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Refusals {
    /// Too few were left.
    pub sold_out: u32,
    /// Too little money: the goods went back.
    pub declined: u32,
    /// Nobody goes there: the money and the goods went back.
    pub no_route: u32,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Orders placed.
    pub orders: u32,
    /// Orders carried out.
    pub confirmed: u32,
    /// Orders rejected.
    pub rejected: Refusals,
    /// What does not fit: steps that were lost, done twice, or not undone.
    pub wrong: Vec<String>,
    /// Whether everything fits.
    pub right: bool,
    /// How long the orders took, seconds.
    pub seconds: f64,
}

/// Orders could not be placed, or the books not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShopError {
    /// The options make no sense.
    #[error("a shop needs at least 1 order and 1 client")]
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

/// What stock, wallets and couriers say.
#[derive(Default)]
struct Books {
    /// Items and wallets.
    amounts: BTreeMap<String, Amount>,
    parcels: BTreeMap<String, Vec<String>>,
}

/// How much there was of something, and is left.
#[derive(Clone, Copy)]
struct Amount {
    opened: i64,
    left: i64,
}

impl Default for ShopOptions {
    fn default() -> Self {
        Self { orders: 200, clients: 16, number: Duration::from_millis(20) }
    }
}

/// Opens a shop of its own, places orders, and checks the books.
///
/// # Errors
/// An order cannot be placed, or the books not be read. What became of orders is in the report.
pub async fn shop(client: &Client, options: ShopOptions) -> Result<Report, ShopError> {
    if options.orders < 1 || options.clients < 1 {
        return Err(ShopError::Options);
    }
    let shop = uuid::Uuid::now_v7().simple().to_string();
    for item in 0..ITEMS {
        let item = StockClient::new(client, name(&shop, "item", item));
        again("fill the stock", || item.open(pieces(&options))).await?;
    }
    for customer in 0..CUSTOMERS {
        let wallet = WalletClient::new(client, name(&shop, "customer", customer));
        again("fill the wallets", || wallet.open(money(&options, customer))).await?;
    }
    let start = Instant::now();
    let next = AtomicU32::new(0);
    let clients = (0..options.clients).map(|_| orders(client, &shop, &options, &next));
    let orders = future::try_join_all(clients).await?.into_iter().flatten().collect();
    let seconds = start.elapsed().as_secs_f64();
    let books = Books::read(client, &shop, &options).await?;
    Ok(judge(&options, &orders, &books, seconds))
}

/// Pieces that there are of an item: two fifths of what is wanted, which is two an order.
fn pieces(options: &ShopOptions) -> i64 {
    i64::from(options.orders) * 2 * 2 / (5 * i64::from(ITEMS)) + 1
}

/// Money that a customer has: one of two has enough for all orders, the other for a quarter of them.
fn money(options: &ShopOptions, customer: u32) -> i64 {
    let wanted = i64::from(options.orders) * 2 * PRICE / i64::from(CUSTOMERS) + 3 * PRICE;
    if customer.is_multiple_of(2) { wanted / 4 } else { wanted }
}

/// One client: takes the next order until there are none left.
async fn orders(
    client: &Client,
    shop: &str,
    options: &ShopOptions,
    next: &AtomicU32,
) -> Result<Vec<(String, Cart, Outcome)>, ShopError> {
    let mut placed = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.orders {
            return Ok(placed);
        }
        if number.is_multiple_of((options.orders / 10).max(1)) {
            tracing::info!(number, of = options.orders, "orders");
        }
        let (id, cart) = (name(shop, "order", number), cart(shop, options, number));
        let order = OrderClient::new(client, &id);
        let outcome = again("place an order", || order.place(cart.clone())).await?;
        placed.push((id, cart, outcome));
    }
}

fn cart(shop: &str, options: &ShopOptions, number: u32) -> Cart {
    let quantity = i64::from(1 + number % 3);
    let region = match number / 3 % REGIONS {
        0 => NOWHERE.to_owned(),
        region => name(shop, "region", region),
    };
    Cart {
        customer: name(shop, "customer", number * 7 % CUSTOMERS),
        item: name(shop, "item", number % ITEMS),
        quantity,
        price: quantity * PRICE,
        region,
        number_ms: u64::try_from(options.number.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Id of an actor of a shop.
fn name(shop: &str, kind: &str, number: u32) -> String {
    format!("{shop}-{kind}-{number}")
}

impl Books {
    async fn read(client: &Client, shop: &str, options: &ShopOptions) -> Result<Self, ShopError> {
        let mut books = Self::default();
        for id in (0..ITEMS).map(|item| name(shop, "item", item)) {
            let item = StockClient::new(client, &id);
            let left = again("read the stock", || item.left()).await?;
            books.amounts.insert(id, Amount { opened: pieces(options), left });
        }
        for customer in 0..CUSTOMERS {
            let id = name(shop, "customer", customer);
            let wallet = WalletClient::new(client, &id);
            let left = again("read a wallet", || wallet.left()).await?;
            books.amounts.insert(id, Amount { opened: money(options, customer), left });
        }
        for region in 1..REGIONS {
            let courier = CourierClient::new(client, name(shop, "region", region));
            books.parcels.append(&mut again("read the parcels", || courier.parcels()).await?);
        }
        Ok(books)
    }
}

fn judge(
    options: &ShopOptions,
    orders: &Vec<(String, Cart, Outcome)>,
    books: &Books,
    seconds: f64,
) -> Report {
    let amounts = |of: fn(&Amount) -> i64| -> BTreeMap<String, i64> {
        books.amounts.iter().map(|(id, amount)| (id.clone(), of(amount))).collect()
    };
    let (mut expected, found) = (amounts(|a| a.opened), amounts(|a| a.left));
    let (mut parcels, mut wrong) = (BTreeMap::new(), Vec::new());
    let (mut confirmed, mut rejected) = (0, Refusals::default());
    for (id, cart, outcome) in orders {
        match outcome {
            Outcome::Confirmed { parcel } => {
                confirmed += 1;
                *expected.entry(cart.item.clone()).or_default() -= cart.quantity;
                *expected.entry(cart.customer.clone()).or_default() -= cart.price;
                parcels.insert(id.clone(), vec![parcel.clone()]);
            }
            Outcome::Rejected { reason } => match reason.as_str() {
                "sold_out" => rejected.sold_out += 1,
                "declined" => rejected.declined += 1,
                "no_route" => rejected.no_route += 1,
                other => wrong.push(format!("{id} was rejected: {other}")),
            },
        }
    }
    differ(&mut wrong, &expected, &found);
    differ(&mut wrong, &parcels, &books.parcels);
    let count = u32::try_from(orders.len()).unwrap_or(u32::MAX);
    if count != options.orders {
        wrong.push(format!("{count} of {} orders have an outcome", options.orders));
    }
    let right = wrong.is_empty();
    Report { orders: count, confirmed, rejected, wrong, right, seconds }
}

/// Notes where the books are not as the orders' outcomes say.
fn differ<V: PartialEq + std::fmt::Debug>(
    wrong: &mut Vec<String>,
    expected: &BTreeMap<String, V>,
    found: &BTreeMap<String, V>,
) {
    let all: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for id in all {
        let (expected, found) = (expected.get(id), found.get(id));
        if expected != found {
            wrong.push(format!("{id}: {found:?} instead of {expected:?}"));
        }
    }
}

/// Makes a call until its outcome is known: asking twice does no harm.
async fn again<R: Decode + 'static>(
    what: &'static str,
    call: impl Fn() -> Call<R, Root>,
) -> Result<R, ShopError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Ok(result) => return Ok(result),
            Err(CallError::Unknown(_) | CallError::Unavailable(_)) if tries < TRIES_MAX => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(error) => return Err(ShopError::Call { what, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ShopOptions = ShopOptions { orders: 2, clients: 1, number: Duration::ZERO };

    /// Two orders, of which the first was carried out, and what they left behind.
    fn done() -> (Vec<(String, Cart, Outcome)>, Books) {
        let (first, second) = (cart("s", &OPTIONS, 0), cart("s", &OPTIONS, 1));
        let confirmed = Outcome::Confirmed { parcel: "n".into() };
        let rejected = Outcome::Rejected { reason: "declined".into() };
        let after = |used| Amount { opened: 50, left: 50 - used };
        let books = Books {
            amounts: [
                (first.item.clone(), after(first.quantity)),
                (first.customer.clone(), after(first.price)),
                (second.item.clone(), after(0)),
                (second.customer.clone(), after(0)),
            ]
            .into(),
            parcels: [("a".to_owned(), vec!["n".to_owned()])].into(),
        };
        (vec![("a".into(), first, confirmed), ("b".into(), second, rejected)], books)
    }

    #[test]
    fn the_judge_is_content_with_books_that_fit() {
        let (orders, books) = done();
        let report = judge(&OPTIONS, &orders, &books, 0.0);
        assert_eq!((report.wrong, report.right), (Vec::new(), true));
        assert_eq!((report.confirmed, report.rejected.declined), (1, 1));
    }

    #[test]
    fn the_judge_sees_what_was_lost_repeated_or_not_undone() {
        type Change = fn(&mut Vec<(String, Cart, Outcome)>, &mut Books);
        let changes: [Change; 5] = [
            |_, books| books.amounts.values_mut().next().expect("a customer").left -= 1,
            |_, books| books.amounts.values_mut().next_back().expect("an item").left += 1,
            |_, books| books.parcels.clear(),
            |_, books| books.parcels.values_mut().for_each(|numbers| numbers.push("m".into())),
            |orders, _| drop(orders.pop()),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let (mut orders, mut books) = done();
            change(&mut orders, &mut books);
            let report = judge(&OPTIONS, &orders, &books, 0.0);
            assert!(!report.right && report.wrong.len() == 1, "{number}: {report:?}");
        }
    }

    #[test]
    fn some_orders_fail_at_each_step() {
        let options = ShopOptions { orders: 200, ..OPTIONS };
        let carts: Vec<Cart> = (0..200).map(|number| cart("s", &options, number)).collect();
        let wanted: i64 = carts.iter().map(|cart| cart.quantity).sum();
        assert!(wanted > pieces(&options) * i64::from(ITEMS));
        for customer in [0, 1] {
            let own = carts.iter().filter(|c| c.customer == name("s", "customer", customer));
            let price: i64 = own.map(|cart| cart.price).sum();
            assert_eq!(price > money(&options, customer), customer == 0);
        }
        assert!(carts.iter().any(|cart| cart.region == NOWHERE));
    }
}
