//! The command line of `kar actor`.

use clap::{Args, Subcommand};

use super::{ActorArgs, ReachArgs};

/// `kar actor`.
#[derive(Debug, Args)]
pub(crate) struct ActorCommandArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ActorCommand,
}

/// What `kar actor` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ActorCommand {
    /// Remove an actor: its state and reminders, behind what is queued for it
    #[command(after_help = "\
What was accepted before runs first; what comes after begins with an empty actor. No host is needed.
An actor that has nothing is removed, too. Results and dead letters of its invocations stay.
    kar actor remove Account alice")]
    Remove {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The actor.
        #[command(flatten)]
        actor: ActorArgs,
    },
}
