//! Orders as events: a shop (a service) publishes each order that it takes, customers (actors) add up their own, and
//! other applications listen, which the shop knows nothing of.
//!
//! - The shop publishes *in its turn*: an order's event is in the topic once if the order was taken, however often the
//!   shop was cut off while it took it, and never if it was declined after all.
//! - Each customer is *subscribed*: the event's partition key names the actor whose method is told of it, once, and in
//!   the order in which the customer's orders were taken.
//! - So nobody looks for repetitions: customers count what they are told, and [`place`] compares.
//!
//! Python has the other application, `samples/orders/ledger.py`: its ledger has a subscription of its own.

mod load;

pub use load::{LoadOptions, OrdersError, Report, place};

use serde::{Deserialize, Serialize};

use crate::{
    ActorContext, CallError, Client, Error, Event, EventFilter, HostBuilder, NewEvent,
    ServiceContext, Subscription,
};

/// The topic that orders are published to.
pub const TOPIC: &str = "orders";

/// Type of the event of an order that was taken.
pub const PLACED: &str = "order.placed";

/// What a customer's card pays at most for one order, cents.
pub const CARD_MAX: i64 = 9_000;

/// Which parts of the shop a component hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// The service that takes orders.
    Shop,
    /// The actors that add them up.
    Customers,
    /// Both.
    Both,
}

/// What somebody wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Unique name.
    pub id: String,
    /// Whose card pays.
    pub customer: String,
    /// The day's how-manieth order of the customer, from 1; declined ones have none of their own.
    pub number: u64,
    /// What it costs.
    pub cents: i64,
    /// The day on which it is placed.
    pub day: String,
}

/// What a customer has ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Orders.
    pub orders: u64,
    /// What they cost together.
    pub cents: i64,
    /// Orders that were told before an earlier one, or again.
    pub misplaced: u64,
}

/// Takes orders.
#[derive(Clone, Copy, Debug)]
pub struct Shop;

/// Adds up the orders of one customer.
#[derive(Clone, Copy, Debug)]
pub struct Customer;

impl Parts {
    /// Adds these parts to a host.
    pub fn host(self, host: HostBuilder) -> HostBuilder {
        match self {
            Self::Shop => host.service(Shop),
            Self::Customers => host.actor(Customer),
            Self::Both => host.service(Shop).actor(Customer),
        }
    }

    /// Subscribes what these parts host. Whoever starts first does it, and it stays so, whoever dies.
    ///
    /// # Errors
    /// There is no topic [`TOPIC`], say.
    pub async fn subscribe(self, client: &Client) -> Result<(), CallError> {
        if self == Self::Shop {
            return Ok(());
        }
        let orders = Subscription::new("customers", TOPIC)
            .to_actors("Customer", "partitionkey", "ordered")
            .filter(EventFilter::exact("type", PLACED));
        client.subscribe(orders).await?;
        Ok(())
    }
}

impl std::str::FromStr for Parts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "shop" => Ok(Self::Shop),
            "customers" => Ok(Self::Customers),
            "both" => Ok(Self::Both),
            other => {
                Err(format!("the parts of the shop are shop, customers and both, not {other}"))
            }
        }
    }
}

#[crate::service(name = "shop")]
impl Shop {
    /// Takes an order, or fails with `declined`.
    async fn order(&self, ctx: &mut ServiceContext, order: Order) -> Result<(), Error> {
        let event = NewEvent::new(PLACED, &order).id(&order.id).key(&order.customer);
        ctx.topic(TOPIC).publish(event.attribute("day", &order.day)).await?;
        // Nothing is published before the order is taken: what fails from here on takes the event back.
        if order.cents > CARD_MAX {
            return Err(Error::new("declined", format!("{} cents are too much", order.cents)));
        }
        Ok(())
    }
}

#[crate::actor]
impl Customer {
    /// Is told of an order that was taken.
    async fn ordered(&self, ctx: &mut ActorContext, event: Event<Order>) -> Result<(), Error> {
        let mut account = self.account(ctx).await?;
        account.orders += 1;
        account.cents += event.data.cents;
        account.misplaced += u64::from(event.data.number != account.orders);
        ctx.state().set("account", &account)?;
        Ok(())
    }

    /// What it has ordered.
    #[kar(shared)]
    async fn account(&self, ctx: &mut ActorContext) -> Result<Account, Error> {
        Ok(ctx.state().get("account").await?.unwrap_or_default())
    }
}
