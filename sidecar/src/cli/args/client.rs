//! The command line of what asks an application for something.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Format, count, duration};

/// How client commands reach the application.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReachArgs {
    /// Application [default: KAR_APP]
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// Socket of a running sidecar to go through [default: KAR_SOCKET if it is of the same
    /// application; else a sidecar is started for the length of this command]
    #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
    pub(crate) socket: Option<PathBuf>,
    /// Folder of local mode that the application runs in [default: KAR_DATA_DIR, or .kar]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Have no peer plane, if a sidecar is started for this command
    #[arg(long, env = "KAR_NO_PEER")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(crate) no_peer: bool,
    /// Token of the sidecar
    #[arg(long, value_name = "TOKEN", env = "KAR_API_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
}

/// Whom to invoke, and with what.
#[derive(Clone, Debug, Args)]
pub(crate) struct InvocationArgs {
    /// Invoke an actor instead of a service
    #[arg(long, num_args = 2, value_names = ["TYPE", "ID"])]
    pub(crate) actor: Option<Vec<String>>,
    /// Of a service: what has the same key is handled by the same owner while that lives
    #[arg(long, value_name = "KEY", conflicts_with = "actor")]
    pub(crate) affinity_key: Option<String>,
    /// SERVICE METHOD [JSON], or with --actor: METHOD [JSON]
    #[arg(required = true, num_args = 1..=3, allow_negative_numbers = true, value_name = "ARG")]
    pub(crate) words: Vec<String>,
    /// Send this file's content instead of JSON from the command line; `-`: standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Type of the content of --file
    #[arg(long, value_name = "MIME", default_value = "application/json")]
    pub(crate) content_type: String,
}

/// How an invocation is carried out.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OptionArgs {
    /// It must start within this time, else it expires and never runs (again) [default: waits for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) start_within: Option<Duration>,
    /// Sent again with the same key, to the same target, it is one invocation with one outcome
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Attempts that may end with an error that the method marks retryable; the last one's is the
    /// result [default: as the method or its sidecar says]
    #[arg(long, value_name = "N")]
    pub(crate) retry_attempts: Option<i32>,
    /// Pause before the second of them; it doubles, by default
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retry_backoff: Option<Duration>,
    /// Longest pause between them
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retry_backoff_max: Option<Duration>,
    /// How many times as long as the one before each pause is, 1 to 100
    #[arg(long, value_name = "FACTOR")]
    pub(crate) retry_multiplier: Option<f64>,
    /// W3C traceparent that it carries on
    #[arg(long, value_name = "TRACEPARENT")]
    pub(crate) trace_parent: Option<String>,
}

/// `kar cancel`, `kar resume`, `kar redrive`, `kar discard`.
#[derive(Debug, Args)]
pub(crate) struct InvocationIdArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Id of the invocation: `kar get invocations` and `kar get dead-letters` list them
    pub(crate) id: String,
    /// How to print what was done
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar call`.
#[derive(Debug, Args)]
#[command(override_usage = "\
kar call [OPTIONS] SERVICE METHOD [JSON]
       kar call [OPTIONS] --actor TYPE ID METHOD [JSON]")]
#[command(after_help = "\
  kar call --app hello greeter hello '{\"name\":\"Alan\"}'
  kar call --app bank --actor Account alice balance")]
pub(crate) struct CallArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// The target.
    #[command(flatten)]
    pub(crate) invocation: InvocationArgs,
    /// How it is carried out.
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    /// Stop waiting for the answer after this time; the call goes on [default: waits for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `kar tell`, `kar start`.
#[derive(Debug, Args)]
#[command(override_usage = "\
kar tell|start [OPTIONS] SERVICE METHOD [JSON]
       kar tell|start [OPTIONS] --actor TYPE ID METHOD [JSON]")]
pub(crate) struct TellArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// The target.
    #[command(flatten)]
    pub(crate) invocation: InvocationArgs,
    /// How it is carried out.
    #[command(flatten)]
    pub(crate) options: OptionArgs,
    /// How to print the id
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar invoke`.
#[derive(Debug, Args)]
#[command(override_usage = "kar invoke [OPTIONS] SERVICE METHOD [JSON]")]
pub(crate) struct InvokeArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// SERVICE METHOD [JSON]
    #[arg(required = true, num_args = 2..=3, allow_negative_numbers = true, value_name = "ARG")]
    pub(crate) words: Vec<String>,
    /// Send this file's content instead of JSON from the command line; `-`: standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Type of the content of --file
    #[arg(long, value_name = "MIME", default_value = "application/json")]
    pub(crate) content_type: String,
    /// Stop waiting for the answer after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `kar await`.
#[derive(Debug, Args)]
pub(crate) struct AwaitArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Id that `kar start` printed
    pub(crate) id: String,
    /// Stop waiting after this time; the invocation goes on [default: waits for ever]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `kar state`.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: StateCommand,
}

/// What `kar state` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Print the value of a key of the application's state
    Get {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The key
        key: String,
        /// json: with the etag, which `--etag` of set and delete takes
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Set a key of the application's state and print its new etag
    Set {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The key
        key: String,
        /// The value, as JSON
        #[arg(allow_negative_numbers = true, required_unless_present = "file")]
        value: Option<String>,
        /// Store this file's content instead; `-`: standard input
        #[arg(long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Type of the content of --file
        #[arg(long, value_name = "MIME", default_value = "application/json")]
        content_type: String,
        /// Only if the key has this etag; `*`: only if it is absent
        #[arg(long)]
        etag: Option<String>,
        /// The key is absent after this time [default: it stays]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// Set and delete keys of the application's state, all or none
    #[command(after_help = "\
  kar state transact --set from 70 --set to 30 --delete pending --etag from 17 --etag to '*'")]
    Transact {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Set a key, its value as JSON; may be given again
        #[arg(long, num_args = 2, value_names = ["KEY", "JSON"], allow_negative_numbers = true)]
        set: Vec<String>,
        /// Delete a key; may be given again
        #[arg(long, value_name = "KEY")]
        delete: Vec<String>,
        /// Only if a key that is set or deleted has this etag (`*`: is absent); may be given again
        #[arg(long, num_args = 2, value_names = ["KEY", "ETAG"])]
        etag: Vec<String>,
        /// The keys set are absent after this time [default: they stay]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        /// How to print what was done
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Delete a key of the application's state
    Delete {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// The key
        key: String,
        /// Only if the key has this etag
        #[arg(long)]
        etag: Option<String>,
    },
    /// List keys of the application's state
    List {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Only keys that start with this
        #[arg(default_value = "")]
        prefix: String,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Show the committed state of an actor: its own keys, or one of its sub-maps
    Actor {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Actor type
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Instance
        id: String,
        /// List the entries of this sub-map instead
        #[arg(long, value_name = "NAME")]
        sub_map: Option<String>,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

/// `kar get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to list.
    #[command(subcommand)]
    pub(crate) what: GetCommand,
}

/// What `kar get` can list.
#[derive(Debug, Subcommand)]
pub(crate) enum GetCommand {
    /// Live nodes of the application
    #[command(visible_alias = "node")]
    Nodes {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
        /// Go on: a line for each node that comes, changes or goes (json: a line with all nodes and
        /// the owners of all partitions for each change)
        #[arg(short, long, conflicts_with = "limit")]
        watch: bool,
    },
    /// Actors that are busy, or have invocations queued
    #[command(visible_alias = "actor")]
    Actors {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
        /// Only of this type
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Unfinished invocations, oldest first; or all that is known of one
    #[command(visible_alias = "invocation")]
    Invocations {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
        /// Only this one, which may also be a dead letter, or have ended if its outcome is kept
        #[arg(value_name = "ID", conflicts_with_all = ["kind", "limit"])]
        id: Option<String>,
        /// Only of this service or actor type
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
    },
    /// Topics of the data directory, with what is in them
    #[command(visible_alias = "topic")]
    Topics {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
    },
    /// Subscriptions of the application, with how far they have come
    #[command(visible_alias = "subscription")]
    Subscriptions {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
    },
    /// Tells that ended without success, oldest first
    #[command(visible_alias = "dead-letter")]
    DeadLetters {
        /// What and how.
        #[command(flatten)]
        list: ListArgs,
        /// Only of this service or actor type
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
    },
}

/// How to list.
#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count)]
    pub(crate) limit: usize,
}

/// `kar drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Node to drain, as `kar get nodes` names it [default: the one of --socket or KAR_SOCKET]
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// End the node afterwards, and its component
    #[arg(long)]
    pub(crate) shutdown: bool,
}
