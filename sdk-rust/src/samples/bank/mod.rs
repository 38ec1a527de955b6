//! A bank of actors that shows, and lets one prove, what KAR promises.
//!
//! A *teller* (a service) moves money between *accounts* (actors) by two nested calls, then tells a
//! *ledger* (actors) that the transfer is done. Hosts may be killed at any time:
//!
//! - An account changes its balance and notes the transfer's id in one turn, so both happen or
//!   neither (P5), and no two turns interleave (P4). A teller that was cut off runs again from the
//!   start and posts with the same id, which the account knows already: so a transfer takes effect
//!   once however often the teller's attempts repeat.
//! - The ledger trusts the runtime alone. It is told in the last segment of the teller's turn,
//!   which is durable together with its completion: each finished transfer counts there **exactly
//!   once**, without any help by ids (P1, P2, P5). Two would be a repeated turn, none a lost one.
//!
//! [`load`] makes the transfers and checks the books.

mod load;

pub use load::{LoadError, LoadOptions, Progress, Report, load};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ActorContext, Error, HostBuilder, ServiceContext};

/// Actors that the ledger is spread over.
pub const LEDGERS: u32 = 8;

/// Prefix of the state keys under which transfers are noted.
const NOTE: &str = "t/";

/// Suffix of the posting that gives the payer the money back.
const BACK: &str = "/back";

/// Which parts of the bank a component hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Accounts and ledgers.
    Accounts,
    /// The teller.
    Teller,
    /// All.
    Both,
}

/// Money to be moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Unique name.
    pub id: String,
    /// Account that pays.
    pub from: String,
    /// Account that is paid.
    pub to: String,
    /// How much; more than nothing.
    pub amount: i64,
}

/// One side of a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Posting {
    /// Name of the transfer; the account takes it once.
    pub id: String,
    /// Comes in; or, if negative, goes out.
    pub amount: i64,
}

/// What an account notes about a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// What came in or went out.
    pub amount: i64,
    /// How often it was asked for: more than once where a teller was cut off.
    pub asked: u32,
}

/// The books of one account.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Statement {
    /// What is on it.
    pub balance: i64,
    /// What made it so, by the id of the transfer.
    pub notes: BTreeMap<String, Note>,
}

/// An account.
#[derive(Clone, Copy, Debug)]
pub struct Account;

/// Counts finished transfers, without caring for anything.
#[derive(Clone, Copy, Debug)]
pub struct Ledger;

/// Makes transfers.
#[derive(Clone, Copy, Debug)]
pub struct Teller;

impl Parts {
    /// Adds these parts to a host.
    pub fn host(self, host: HostBuilder) -> HostBuilder {
        match self {
            Self::Accounts => host.actor(Account).actor(Ledger),
            Self::Teller => host.service(Teller),
            Self::Both => host.actor(Account).actor(Ledger).service(Teller),
        }
    }
}

impl std::str::FromStr for Parts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "accounts" => Ok(Self::Accounts),
            "teller" => Ok(Self::Teller),
            "both" => Ok(Self::Both),
            other => {
                Err(format!("the parts of the bank are accounts, teller and both, not {other}"))
            }
        }
    }
}

/// The ledger that a transfer is noted in.
#[must_use]
pub fn ledger_of(transfer: &str) -> String {
    let sum = transfer.bytes().fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    (sum % LEDGERS).to_string()
}

#[crate::actor]
impl Account {
    /// Gives a new account its first money; leaves an old one as it is. Returns what is on it.
    async fn open(&self, ctx: &mut ActorContext, balance: i64) -> Result<i64, Error> {
        let state = ctx.state();
        if let Some(balance) = state.get("balance").await? {
            return Ok(balance);
        }
        state.set("balance", &balance)?;
        Ok(balance)
    }

    /// Puts money in. Returns what is there then.
    async fn deposit(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        change(ctx, positive(amount)?).await
    }

    /// Takes money out: `insufficient_funds` if there is too little. Returns what is there then.
    async fn withdraw(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        change(ctx, -positive(amount)?).await
    }

    /// What is there.
    #[kar(shared)]
    async fn balance(&self, ctx: &mut ActorContext) -> Result<i64, Error> {
        Ok(ctx.state().get("balance").await?.unwrap_or(0))
    }

    /// Takes one side of a transfer, once however often it is asked: `insufficient_funds` if there
    /// is too little.
    async fn apply(&self, ctx: &mut ActorContext, posting: Posting) -> Result<i64, Error> {
        let state = ctx.state();
        let key = format!("{NOTE}{}", posting.id);
        let back = format!("{key}{BACK}");
        let mut known = state.get_many(&["balance", &key, &back]).await?;
        if known.contains_key(&back) {
            // A teller was cut off after it had given the money back: the transfer has failed for
            // good.
            return Err(Error::new("given_back", format!("{} has failed before", posting.id)));
        }
        let mut read = |key: &str| known.remove(key);
        let balance: i64 = read("balance").map(crate::Decode::decode).transpose()?.unwrap_or(0);
        let note: Option<Note> = read(&key).map(crate::Decode::decode).transpose()?;
        if let Some(note) = note {
            state.set(&key, &Note { asked: note.asked + 1, ..note })?;
            return Ok(balance);
        }
        let balance = sum(balance, posting.amount)?;
        state.set("balance", &balance)?;
        state.set(&key, &Note { amount: posting.amount, asked: 1 })?;
        Ok(balance)
    }

    /// The books.
    #[kar(shared)]
    async fn audit(&self, ctx: &mut ActorContext) -> Result<Statement, Error> {
        let mut statement = Statement::default();
        for (key, value) in ctx.state().get_all().await? {
            if let Some(id) = key.strip_prefix(NOTE) {
                statement.notes.insert(id.to_owned(), crate::Decode::decode(value)?);
            } else if key == "balance" {
                statement.balance = crate::Decode::decode(value)?;
            }
        }
        Ok(statement)
    }
}

#[crate::actor]
impl Ledger {
    /// Counts a transfer.
    async fn record(&self, ctx: &mut ActorContext, id: String) -> Result<(), Error> {
        let key = format!("{NOTE}{id}");
        let count: u32 = ctx.state().get(&key).await?.unwrap_or(0);
        ctx.state().set(&key, &(count + 1))?;
        Ok(())
    }

    /// How often each transfer was counted.
    #[kar(shared)]
    async fn audit(&self, ctx: &mut ActorContext) -> Result<BTreeMap<String, u32>, Error> {
        let mut counts = BTreeMap::new();
        for (key, value) in ctx.state().get_all().await? {
            if let Some(id) = key.strip_prefix(NOTE) {
                counts.insert(id.to_owned(), crate::Decode::decode(value)?);
            }
        }
        Ok(counts)
    }
}

#[crate::service(name = "teller")]
impl Teller {
    /// Moves money; `insufficient_funds` if the payer has too little. If the payee refuses, the
    /// payer gets it back.
    async fn transfer(&self, ctx: &mut ServiceContext, order: Transfer) -> Result<(), Error> {
        let amount = positive(order.amount)?;
        let payer = AccountClient::new(ctx, &order.from);
        let payee = AccountClient::new(ctx, &order.to);
        payer.apply(Posting { id: order.id.clone(), amount: -amount }).await?;
        if let Err(error) = payee.apply(Posting { id: order.id.clone(), amount }).await {
            if error.application().is_some() {
                let id = format!("{}{BACK}", order.id);
                payer.apply(Posting { id, amount }).await?;
            }
            return Err(error.into());
        }
        LedgerClient::new(ctx, ledger_of(&order.id)).record(order.id).tell().await?;
        Ok(())
    }
}

async fn change(ctx: &ActorContext, amount: i64) -> Result<i64, Error> {
    let balance = sum(ctx.state().get("balance").await?.unwrap_or(0), amount)?;
    ctx.state().set("balance", &balance)?;
    Ok(balance)
}

fn sum(balance: i64, amount: i64) -> Result<i64, Error> {
    match balance.checked_add(amount) {
        Some(sum) if sum >= 0 => Ok(sum),
        Some(_) => {
            let text = format!("{balance} is too little to pay {}", -amount);
            Err(Error::new("insufficient_funds", text))
        }
        None => Err(Error::new("overflow", "more than an account can hold")),
    }
}

fn positive(amount: i64) -> Result<i64, Error> {
    if amount > 0 {
        return Ok(amount);
    }
    Err(Error::new("invalid_amount", format!("an amount is more than nothing, not {amount}")))
}
