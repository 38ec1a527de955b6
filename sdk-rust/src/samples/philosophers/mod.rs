//! Dining philosophers who neither starve nor deadlock, and whose forks survive the death of
//! anybody who holds them.
//!
//! Philosophers and forks are actors. A philosopher's meal is one chain of *tail calls*: hungry →
//! the lower fork → reach → the higher fork → reach → eat → put both down. Then the philosopher
//! thinks, until a *reminder* says that it is hungry again. Nobody waits inside a turn, so nobody
//! holds an actor while waiting:
//!
//! - A fork that is free goes on with the philosopher's chain. One that is taken remembers who
//!   asked, and there the chain ends; whoever puts the fork down later gives it to the first who
//!   waits, by a *tell* in the same turn. Taking, waiting and handing over are each one durable
//!   step (P5, P6): a fork is never held by two, never lost, and nobody is forgotten in its queue.
//! - Everybody takes the lower fork first, so no circle of waiting can close.
//! - With both forks in hand a philosopher eats, by a tail call to itself that *keeps the lock*:
//!   nobody sees it between having the forks and eating.
//! - The reminder is set in the turn that ends the meal, and is durable with it or not at all. It
//!   fires once, also if everybody was dead at that time.
//!
//! There are no ids of requests and no checks for repetition anywhere: that each step takes effect
//! exactly once, whoever is killed, is what the runtime promises. [`dine`] sits people down and
//! checks afterwards that it kept its promise.

mod dinner;

pub use dinner::{DinnerError, DinnerOptions, Report, dine};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ActorContext, Error, HostBuilder, Reminder};

/// Fewest philosophers: each has two forks, and shares them with others.
pub const SEATS_MIN: u32 = 2;

/// Which parts of the table a component hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Philosophers.
    Philosophers,
    /// Forks.
    Forks,
    /// All.
    Both,
}

/// One philosopher's place, and how much is still to be eaten there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// Name of the dinner; no two have the same.
    pub table: String,
    /// Number of the seat, from 0; its forks have this number and the next one.
    pub number: u32,
    /// Seats at the table.
    pub seats: u32,
    /// Meals to come.
    pub meals: u32,
    /// How long a meal takes, ms.
    pub meal_ms: u64,
    /// How long they think between two meals, ms.
    pub think_ms: u64,
}

/// What a philosopher remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Diary {
    /// Meals eaten.
    pub eaten: u32,
    /// Forks in hand now.
    pub in_hand: u32,
    /// What must not happen, in the order in which it happened.
    pub wrong: Vec<String>,
}

/// What a fork remembers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ForkState {
    /// Seat of the philosopher who has it.
    pub holder: Option<u32>,
    /// Who waits for it, in the order in which they asked.
    pub waiting: Vec<Seat>,
    /// How often it was put down.
    pub used: u32,
    /// What must not happen, in the order in which it happened.
    pub wrong: Vec<String>,
}

/// A philosopher.
#[derive(Clone, Copy, Debug)]
pub struct Philosopher;

/// A fork.
#[derive(Clone, Copy, Debug)]
pub struct Fork;

impl Parts {
    /// Adds these parts to a host.
    pub fn host(self, host: HostBuilder) -> HostBuilder {
        match self {
            Self::Philosophers => host.actor(Philosopher),
            Self::Forks => host.actor(Fork),
            Self::Both => host.actor(Philosopher).actor(Fork),
        }
    }
}

impl std::str::FromStr for Parts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "philosophers" => Ok(Self::Philosophers),
            "forks" => Ok(Self::Forks),
            "both" => Ok(Self::Both),
            other => {
                Err(format!("the parts of the table are philosophers, forks and both, not {other}"))
            }
        }
    }
}

impl Seat {
    /// Id of the philosopher who sits here.
    #[must_use]
    pub fn philosopher(&self) -> String {
        place(&self.table, self.number)
    }

    /// The two forks, the lower number first: the order in which everybody takes them.
    #[must_use]
    pub fn forks(&self) -> [u32; 2] {
        let next = (self.number + 1) % self.seats;
        [self.number.min(next), self.number.max(next)]
    }

    fn fork(&self, number: u32) -> String {
        place(&self.table, number)
    }
}

/// Id of an actor at a table.
fn place(table: &str, number: u32) -> String {
    format!("{table}-{number}")
}

#[crate::actor]
impl Philosopher {
    /// Reaches for the first fork, unless all is eaten.
    async fn hungry(&self, ctx: &mut ActorContext, seat: Seat) -> Result<(), Error> {
        if seat.meals == 0 {
            return Ok(());
        }
        let [lower, _] = seat.forks();
        ForkClient::new(ctx, seat.fork(lower)).take(seat).tail()
    }

    /// Has got a fork: reaches for the other one, or eats.
    async fn reach(&self, ctx: &mut ActorContext, seat: Seat) -> Result<(), Error> {
        let mut diary = diary(ctx).await?;
        diary.in_hand += 1;
        let forks = seat.forks();
        let in_hand = diary.in_hand;
        if in_hand > 2 {
            diary.wrong.push(format!("{in_hand} forks in hand"));
        }
        ctx.state().set("diary", &diary)?;
        match in_hand {
            1 => ForkClient::new(ctx, seat.fork(forks[1])).take(seat).tail(),
            _ => PhilosopherClient::new(ctx, ctx.id()).eat(seat).tail_keeping_lock(),
        }
    }

    /// Eats, puts both forks down, and thinks until it is hungry again.
    async fn eat(&self, ctx: &mut ActorContext, seat: Seat) -> Result<(), Error> {
        tokio::time::sleep(Duration::from_millis(seat.meal_ms)).await;
        let mut diary = diary(ctx).await?;
        if diary.in_hand != 2 {
            diary.wrong.push(format!("eats with {} forks", diary.in_hand));
        }
        (diary.in_hand, diary.eaten) = (0, diary.eaten + 1);
        ctx.state().set("diary", &diary)?;
        let [lower, higher] = seat.forks();
        ForkClient::new(ctx, seat.fork(higher)).put(seat.number).tell().await?;
        ForkClient::new(ctx, seat.fork(lower)).put(seat.number).tell().await?;
        let seat = Seat { meals: seat.meals - 1, ..seat };
        if seat.meals > 0 {
            let hungry = Reminder::new("hungry", "hungry").argument(&seat);
            let thinking = Duration::from_millis(seat.think_ms);
            ctx.reminders().schedule(hungry.after(thinking)).await?;
        }
        Ok(())
    }

    /// What was eaten.
    #[kar(shared)]
    async fn audit(&self, ctx: &mut ActorContext) -> Result<Diary, Error> {
        diary(ctx).await
    }
}

#[crate::actor]
impl Fork {
    /// Somebody wants it: gets it, or waits in line.
    async fn take(&self, ctx: &mut ActorContext, seat: Seat) -> Result<(), Error> {
        let mut fork = fork(ctx).await?;
        if fork.holder.is_some() {
            // The chain ends here, and goes on when the fork is put down.
            fork.waiting.push(seat);
            ctx.state().set("fork", &fork)?;
            return Ok(());
        }
        fork.holder = Some(seat.number);
        ctx.state().set("fork", &fork)?;
        PhilosopherClient::new(ctx, seat.philosopher()).reach(seat).tail()
    }

    /// Is put down: goes to whoever has waited longest.
    async fn put(&self, ctx: &mut ActorContext, by: u32) -> Result<(), Error> {
        let mut fork = fork(ctx).await?;
        if fork.holder != Some(by) {
            fork.wrong.push(format!("{by} puts down what {:?} has", fork.holder));
        }
        fork.used += 1;
        let next = (!fork.waiting.is_empty()).then(|| fork.waiting.remove(0));
        fork.holder = next.as_ref().map(|seat| seat.number);
        ctx.state().set("fork", &fork)?;
        match next {
            Some(seat) => PhilosopherClient::new(ctx, seat.philosopher()).reach(seat).tail(),
            None => Ok(()),
        }
    }

    /// What it remembers.
    #[kar(shared)]
    async fn audit(&self, ctx: &mut ActorContext) -> Result<ForkState, Error> {
        fork(ctx).await
    }
}

async fn diary(ctx: &ActorContext) -> Result<Diary, Error> {
    Ok(ctx.state().get("diary").await?.unwrap_or_default())
}

async fn fork(ctx: &ActorContext) -> Result<ForkState, Error> {
    Ok(ctx.state().get("fork").await?.unwrap_or_default())
}
