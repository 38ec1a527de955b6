//! Orders of a shop: a *saga* as an ordinary method. It takes goods out of stock, money out of a
//! wallet, and hands a parcel to a courier; what cannot go on is undone in reverse order.
//!
//! [`Order::place`](OrderClient::place) is one method from the first step to the last, and whoever
//! runs it may be killed at any time: the runtime runs it again, from the start, until it has ended.
//!
//! - Each step is a call with a *step key*: its outcome, a refusal as well, is kept with the running
//!   method, and a retry gets it instead of calling again. So a retry walks through what is done
//!   already, and goes on where the last attempt was cut off; also in the middle of undoing.
//! - The parcel's number comes from outside ([`once`](crate::TurnContext::once)): a retry gets the
//!   recorded one, so the courier, the customer and the order know the same.
//! - Nothing of that may depend on anything that differs between attempts: what was recorded decides.
//!
//! Stock, wallets and couriers keep no ids of orders and look for no repetitions: that each step took
//! effect once is what the runtime promises, and what [`shop`] checks afterwards.

mod load;

pub use load::{Refusals, Report, ShopError, ShopOptions, shop};

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ActorContext, ApplicationError, CallError, Decode, Error, HostBuilder};

/// Region that no courier reaches.
pub const NOWHERE: &str = "nowhere";

/// Prefix of the keys under which a courier notes parcels.
const PARCEL: &str = "p/";

/// Which parts of the shop a component hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Orders: the sagas.
    Orders,
    /// Stock, wallets, couriers: what sagas change.
    Backend,
    /// All.
    Both,
}

/// What somebody wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cart {
    /// Whose wallet pays.
    pub customer: String,
    /// What is bought.
    pub item: String,
    /// How many.
    pub quantity: i64,
    /// Price of all of them.
    pub price: i64,
    /// Where it goes.
    pub region: String,
    /// How long it takes to get the parcel's number, ms.
    pub number_ms: u64,
}

/// What became of an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is paid, and on its way.
    Confirmed {
        /// Number of the parcel.
        parcel: String,
    },
    /// It could not be carried out, and nothing of it is left.
    Rejected {
        /// Code of the refusal: `sold_out`, `declined` or `no_route`.
        reason: String,
    },
}

/// A parcel for a courier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parcel {
    /// The order.
    pub order: String,
    /// Its number.
    pub number: String,
}

/// A saga; one actor an order.
#[derive(Clone, Copy, Debug)]
pub struct Order;

/// What is left of an item; one actor an item.
#[derive(Clone, Copy, Debug)]
pub struct Stock;

/// A customer's money; one actor a customer.
#[derive(Clone, Copy, Debug)]
pub struct Wallet;

/// Takes parcels; one actor a region.
#[derive(Clone, Copy, Debug)]
pub struct Courier;

impl Parts {
    /// Adds these parts to a host.
    pub fn host(self, host: HostBuilder) -> HostBuilder {
        let backend = |host: HostBuilder| host.actor(Stock).actor(Wallet).actor(Courier);
        match self {
            Self::Orders => host.actor(Order),
            Self::Backend => backend(host),
            Self::Both => backend(host).actor(Order),
        }
    }
}

impl std::str::FromStr for Parts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "orders" => Ok(Self::Orders),
            "backend" => Ok(Self::Backend),
            "both" => Ok(Self::Both),
            other => {
                Err(format!("the parts of the shop are orders, backend and both, not {other}"))
            }
        }
    }
}

#[crate::actor]
impl Order {
    /// Carries out an order, or nothing of it. Asked again it answers what became of it.
    async fn place(&self, ctx: &mut ActorContext, cart: Cart) -> Result<Outcome, Error> {
        if let Some(known) = ctx.state().get("outcome").await? {
            return Ok(known);
        }
        let outcome = match saga(ctx, &cart).await? {
            Ok(parcel) => Outcome::Confirmed { parcel },
            Err(refusal) => Outcome::Rejected { reason: refusal.code },
        };
        ctx.state().set("outcome", &outcome)?;
        Ok(outcome)
    }
}

/// The steps, and what undoes them.
async fn saga(ctx: &ActorContext, cart: &Cart) -> Result<Result<String, ApplicationError>, Error> {
    let stock = StockClient::new(ctx, &cart.item);
    let wallet = WalletClient::new(ctx, &cart.customer);
    let courier = CourierClient::new(ctx, &cart.region);
    if let Err(refusal) = refused(stock.take(cart.quantity).step_key("take").await)? {
        return Ok(Err(refusal));
    }
    if let Err(refusal) = refused(wallet.pay(cart.price).step_key("pay").await)? {
        stock.put_back(cart.quantity).step_key("put back").await?;
        return Ok(Err(refusal));
    }
    let number = ctx.once("number", || parcel_number(cart.number_ms)).await?;
    let parcel = Parcel { order: ctx.id().to_owned(), number };
    if let Err(refusal) = refused(courier.ship(parcel.clone()).step_key("ship").await)? {
        wallet.refund(cart.price).step_key("refund").await?;
        stock.put_back(cart.quantity).step_key("put back").await?;
        return Ok(Err(refusal));
    }
    Ok(Ok(parcel.number))
}

/// A refusal of the application is an outcome that a saga goes on from; other errors end it.
fn refused<R>(result: Result<R, CallError>) -> Result<Result<R, ApplicationError>, Error> {
    match result {
        Ok(result) => Ok(Ok(result)),
        Err(CallError::Application(refusal)) => Ok(Err(*refusal)),
        Err(error) => Err(error.into()),
    }
}

/// Comes from somewhere outside, takes its time, and is another one each time.
async fn parcel_number(milliseconds: u64) -> Result<String, Infallible> {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(uuid::Uuid::new_v4().simple().to_string())
}

#[crate::actor]
impl Stock {
    /// Gives a new item its first stock; leaves an old one as it is. Returns what is there.
    async fn open(&self, ctx: &mut ActorContext, quantity: i64) -> Result<i64, Error> {
        open(ctx, quantity).await
    }

    /// Takes some out: `sold_out` if there are too few. Returns what is left.
    async fn take(&self, ctx: &mut ActorContext, quantity: i64) -> Result<i64, Error> {
        change(ctx, -quantity, "sold_out").await
    }

    /// Puts some back. Returns what is there then.
    async fn put_back(&self, ctx: &mut ActorContext, quantity: i64) -> Result<i64, Error> {
        change(ctx, quantity, "sold_out").await
    }

    /// What is left.
    #[kar(shared)]
    async fn left(&self, ctx: &mut ActorContext) -> Result<i64, Error> {
        Ok(ctx.state().get("amount").await?.unwrap_or(0))
    }
}

#[crate::actor]
impl Wallet {
    /// Gives a new wallet its first money; leaves an old one as it is. Returns what is in it.
    async fn open(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        open(ctx, amount).await
    }

    /// Takes money out: `declined` if there is too little. Returns what is left.
    async fn pay(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        change(ctx, -amount, "declined").await
    }

    /// Gives money back. Returns what is in it then.
    async fn refund(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        change(ctx, amount, "declined").await
    }

    /// What is in it.
    #[kar(shared)]
    async fn left(&self, ctx: &mut ActorContext) -> Result<i64, Error> {
        Ok(ctx.state().get("amount").await?.unwrap_or(0))
    }
}

#[crate::actor]
impl Courier {
    /// Takes a parcel: `no_route` where nobody goes.
    async fn ship(&self, ctx: &mut ActorContext, parcel: Parcel) -> Result<(), Error> {
        if ctx.id() == NOWHERE {
            return Err(Error::new("no_route", "nobody goes there"));
        }
        let key = format!("{PARCEL}{}", parcel.order);
        let mut numbers: Vec<String> = ctx.state().get(&key).await?.unwrap_or_default();
        numbers.push(parcel.number);
        ctx.state().set(&key, &numbers)?;
        Ok(())
    }

    /// Numbers of all parcels, by order.
    #[kar(shared)]
    async fn parcels(
        &self,
        ctx: &mut ActorContext,
    ) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let mut parcels = BTreeMap::new();
        for (key, value) in ctx.state().get_all().await? {
            if let Some(order) = key.strip_prefix(PARCEL) {
                parcels.insert(order.to_owned(), Vec::decode(value)?);
            }
        }
        Ok(parcels)
    }
}

async fn open(ctx: &ActorContext, amount: i64) -> Result<i64, Error> {
    let state = ctx.state();
    if let Some(amount) = state.get("amount").await? {
        return Ok(amount);
    }
    state.set("amount", &amount)?;
    Ok(amount)
}

async fn change(ctx: &ActorContext, amount: i64, refusal: &str) -> Result<i64, Error> {
    let there: i64 = ctx.state().get("amount").await?.unwrap_or(0);
    let Some(left) = there.checked_add(amount).filter(|left| *left >= 0) else {
        return Err(Error::new(refusal, format!("{there} is too little for {}", -amount)));
    };
    ctx.state().set("amount", &left)?;
    Ok(left)
}
