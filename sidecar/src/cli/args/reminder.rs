//! The command line of `kar reminder`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, ReachArgs, duration};

/// `kar reminder`.
#[derive(Debug, Args)]
pub(crate) struct ReminderArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ReminderCommand,
}

/// What `kar reminder` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ReminderCommand {
    /// Schedule a reminder of an actor, or replace the one of this name, and print when it is due
    #[command(after_help = "\
Without --at, --in, --every and --cron it is due at once.
    kar reminder set Clock tower tea pour 2 --in 10m
    kar reminder set Clock tower news read --cron '30 7 * * 1-5' --zone Europe/Zurich")]
    Set(Box<SetArgs>),
    /// List the reminders of an actor
    List {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The actor.
        #[command(flatten)]
        actor: ActorArgs,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Cancel a reminder, with what it has called that has not started
    Cancel {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The actor.
        #[command(flatten)]
        actor: ActorArgs,
        /// Name of the reminder
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// Cancel all reminders of the actor
        #[arg(long)]
        all: bool,
    },
}

/// Whose reminders.
#[derive(Clone, Debug, Args)]
pub(crate) struct ActorArgs {
    /// Actor type
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    /// Instance
    pub(crate) id: String,
}

/// `kar reminder set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// The actor.
    #[command(flatten)]
    pub(crate) actor: ActorArgs,
    /// Name of the reminder among those of the actor
    pub(crate) name: String,
    /// Method to call
    pub(crate) method: String,
    /// Its argument, as JSON [default: null]
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub(crate) argument: Option<String>,
    /// Due at this time, such as 2030-01-31T09:30:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    pub(crate) at: Option<prost_types::Timestamp>,
    /// Due after this time
    #[arg(long = "in", value_name = "DURATION", value_parser = duration)]
    pub(crate) after: Option<Duration>,
    /// Due again so long after each due time
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "cron")]
    pub(crate) every: Option<Duration>,
    /// Due again at the times of this expression: minute, hour, day of month, month, day of week
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) cron: Option<String>,
    /// Time zone of --cron, such as Europe/Zurich [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) zone: Option<String>,
    /// What to do about due times that were missed
    #[arg(long, value_name = "POLICY", default_value = "once")]
    pub(crate) catch_up: CatchUp,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// What to do about due times that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CatchUp {
    /// Call once for all of them.
    Once,
    /// Call for each of them.
    Each,
    /// Do not call for them.
    Skip,
}
