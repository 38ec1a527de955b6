//! The command line as types: what starts and keeps things; [`client`] has what asks for things.

mod actor;
mod client;
mod event;
mod reminder;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kar_hub::HubLimits;

use super::exit;
use super::limits::{BoundArgs, LimitArgs};
pub(crate) use actor::{ActorCommand, ActorCommandArgs};
pub(crate) use client::{
    AwaitArgs, CallArgs, DrainArgs, GetArgs, GetCommand, InvocationArgs, InvocationIdArgs,
    InvokeArgs, ListArgs, OptionArgs, ReachArgs, StateArgs, StateCommand, TellArgs,
};
pub(crate) use event::{
    CreateArgs, FilterArgs, NewSubscription, PublishArgs, SubscribeArgs, SubscriptionArgs,
    SubscriptionCommand, TopicArgs, TopicCommand,
};
pub(crate) use reminder::{ActorArgs, CatchUp, ReminderArgs, ReminderCommand, SetArgs};

/// KAR: components in separate processes, joined by calls that survive crashes.
#[derive(Debug, Parser)]
#[command(name = "kar", version, disable_help_subcommand = false, after_help = exit::TABLE)]
#[command(max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to log to standard error: off, error, warn, info, debug, trace, or a filter such as
    /// `info,kar::peer=debug` [default: info for run, up and hub; warn otherwise]
    #[arg(short = 'v', long, global = true, value_name = "FILTER", env = "KAR_LOG")]
    #[arg(help_heading = "Logging")]
    pub(crate) log: Option<String>,
    /// How to log.
    #[arg(long, global = true, value_name = "FORMAT", env = "KAR_LOG_FORMAT")]
    #[arg(help_heading = "Logging", default_value = "pretty")]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// How results look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a component: a sidecar, and your command beside it
    Run(Box<RunArgs>),
    /// Run all components of an application as a file describes them
    Up(UpArgs),
    /// Call a service or an actor durably and print the result
    Call(CallArgs),
    /// Tell a service or an actor: returns when it is durable, and prints the invocation's id
    Tell(TellArgs),
    /// Invoke a service directly: at most once, past all logs, for reads
    Invoke(InvokeArgs),
    /// Start an invocation and print its id; `kar await ID` fetches the result
    Start(TellArgs),
    /// Wait for the result of a started invocation and print it
    Await(AwaitArgs),
    /// Ask for an invocation's end: what does not run never will, what runs is told to stop
    Cancel(InvocationIdArgs),
    /// Let a parked invocation go on: one that has lost too many hosts
    Resume(InvocationIdArgs),
    /// Send a dead letter again, as a new tell, and print its id
    Redrive(InvocationIdArgs),
    /// Drop a dead letter
    Discard(InvocationIdArgs),
    /// Read and write the application's state; show an actor's
    State(StateArgs),
    /// Remove an actor
    Actor(ActorCommandArgs),
    /// Have an actor called at due times, list and cancel that
    Reminder(ReminderArgs),
    /// Create and delete topics
    Topic(TopicArgs),
    /// Publish an event and print where it is
    Publish(Box<PublishArgs>),
    /// Follow a topic: print its events, until it is interrupted
    Subscribe(Box<SubscribeArgs>),
    /// Have a topic's events delivered to a method; pause, resume and end that
    Subscription(SubscriptionArgs),
    /// List nodes, actors, unfinished invocations, dead letters, topics or subscriptions
    Get(GetArgs),
    /// Hand over everything that a node owns, so that it can be stopped without anybody noticing
    Drain(DrainArgs),
    /// Delete everything that an application has stored; refused while its nodes are alive
    Purge(PurgeArgs),
    /// Run the local hub in the foreground (sidecars start one by themselves when they need it)
    Hub(HubArgs),
    /// Check the data directory, disk, hub and sidecar
    Doctor(DoctorArgs),
    /// A bank under load while its processes are killed at random, and the ledger that balances
    Demo(DemoArgs),
    /// Print the version
    Version(VersionArgs),
    /// Print a shell's completion script
    Completions(CompletionArgs),
    /// Keeps a component's processes from outliving their sidecar
    #[command(name = "__child", hide = true)]
    Child(ChildArgs),
    /// A component of the demonstration
    #[command(name = "__demo-app", hide = true)]
    DemoApp,
}

/// How `kar run` starts a component.
#[derive(Debug, Args)]
#[command(override_usage = "kar run --app APP [OPTIONS] [--] [COMMAND [ARG]...]")]
#[command(after_help = "\
COMMAND gets KAR_SOCKET, KAR_GRPC_PORT, KAR_APP (and KAR_API_TOKEN, KAR_SERVICE, KAR_ACTORS where
given) in its environment. Without COMMAND this is a bare sidecar.
The original KAR's flags work as they were: kar run -app hello -service greeter node server.js")]
pub(crate) struct RunArgs {
    /// Application to join
    #[arg(long, env = "KAR_APP")]
    pub(crate) app: String,
    /// Service that the component is going to offer (repeatable); KAR warns if it does not
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    pub(crate) service: Vec<String>,
    /// Actor types that the component is going to offer; KAR warns if it does not
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    pub(crate) actors: Vec<String>,
    /// Name of this node and of its output lines [default: made from the process id; lines: the
    /// application's name]
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Where and how data is kept.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Path of the component's Unix socket [default: a new one in DATA_DIR/run]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// TCP port on loopback with the same services; 0: any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) grpc_port: u16,
    /// Token that the component, and everybody else on the socket and port, must show, but for health and reflection
    #[arg(long, value_name = "TOKEN", env = "KAR_API_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
    /// Address where other sidecars reach this one by TCP, besides its Unix socket
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) peer_listen: Option<std::net::SocketAddr>,
    /// Have no peer plane: neither listen for other sidecars nor dial them; everything goes through
    /// inboxes in the log
    #[arg(long, env = "KAR_NO_PEER", conflicts_with = "peer_listen")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub(crate) no_peer: bool,
    /// Partitions of kinds that this node is the first to use; fixed from then on
    #[arg(long, value_name = "COUNT", default_value_t = kar::config::DEFAULT_PARTITIONS)]
    pub(crate) partitions: u32,
    /// Pass the component's output through unchanged, without `NAME | ` before each line
    #[arg(long)]
    pub(crate) no_prefix: bool,
    /// Start the component again when it fails, instead of ending with it
    #[arg(long)]
    pub(crate) restart: bool,
    /// How long the component may take to end once asked (SIGTERM), before SIGKILL
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) stop_timeout: Duration,
    /// The component: a command with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Bounds of the decisions.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Bounds of the connections.
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
}

/// Where and how data is kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Folder of local mode; processes that name the same one work together
    #[arg(long, value_name = "DIR", env = "KAR_DATA_DIR")]
    #[arg(default_value = kar::config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// What an acknowledgement means; the process that starts the hub decides
    #[arg(long, value_name = "LEVEL", env = "KAR_DURABILITY", default_value = "fsync")]
    pub(crate) durability: Durability,
}

/// What the hub waits for before it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// The disk has it: survives power loss.
    Fsync,
    /// The operating system has it: survives the death of processes, not of the machine.
    Os,
}

/// `kar purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Application to delete
    #[arg(long, env = "KAR_APP")]
    pub(crate) app: String,
    /// Folder of local mode
    #[arg(long, value_name = "DIR", env = "KAR_DATA_DIR")]
    #[arg(default_value = kar::config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}

/// `kar hub`.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// Where and how data is kept.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// End after this time without any client; 0: never
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub(crate) idle_exit: Duration,
    /// What compacting log files may read and write in a second, unless the disk holds far too much
    #[arg(long, value_name = "BYTES", env = "KAR_HUB_COMPACTION_BYTES_PER_SECOND")]
    #[arg(default_value_t = HubLimits::default().compaction_bytes_per_second)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) compaction_bytes_per_second: u64,
    /// Longest snapshot of a partition
    #[arg(long, value_name = "BYTES", env = "KAR_HUB_SNAPSHOT_BYTES_MAX")]
    #[arg(default_value_t = HubLimits::default().snapshot_bytes_max)]
    pub(crate) snapshot_bytes_max: u64,
    /// Snapshots kept, of all applications
    #[arg(long, value_name = "N", env = "KAR_HUB_SNAPSHOTS_MAX")]
    #[arg(default_value_t = HubLimits::default().snapshots_max)]
    pub(crate) snapshots_max: usize,
    /// Topics
    #[arg(long, value_name = "N", env = "KAR_HUB_TOPICS_MAX")]
    #[arg(default_value_t = HubLimits::default().topics_max)]
    pub(crate) topics_max: usize,
    /// Partitions of all topics together
    #[arg(long, value_name = "N", env = "KAR_HUB_TOPIC_PARTITIONS_MAX")]
    #[arg(default_value_t = HubLimits::default().topic_partitions_max)]
    pub(crate) topic_partitions_max: usize,
    /// Consumers of topics that are remembered, of all applications
    #[arg(long, value_name = "N", env = "KAR_HUB_CONSUMERS_MAX")]
    #[arg(default_value_t = HubLimits::default().consumers_max)]
    pub(crate) consumers_max: usize,
    /// Channels into topics: one for each partition of an application that publishes in its turns, and each partition
    /// of a topic that it publishes to
    #[arg(long, value_name = "N", env = "KAR_HUB_TOPIC_CHANNELS_MAX")]
    #[arg(default_value_t = HubLimits::default().topic_channels_max)]
    pub(crate) topic_channels_max: usize,
    /// Readings of topics that wait for events
    #[arg(long, value_name = "N", env = "KAR_HUB_FETCHES_MAX")]
    #[arg(default_value_t = HubLimits::default().fetches_max)]
    pub(crate) fetches_max: usize,
    /// Started by a sidecar, which reads the hub's own exit codes.
    #[arg(long, hide = true)]
    pub(crate) on_demand: bool,
}

/// `kar up`.
#[derive(Debug, Args)]
#[command(after_help = super::up::EXAMPLE)]
pub(crate) struct UpArgs {
    /// The file
    #[arg(value_name = "FILE", default_value = "app.yaml")]
    pub(crate) file: PathBuf,
    /// Folder of local mode, instead of the file's
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Check the file and print what would be run
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only these components (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

/// `kar doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Folder of local mode
    #[arg(long, value_name = "DIR", env = "KAR_DATA_DIR")]
    #[arg(default_value = kar::config::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Sidecar to look at too
    #[arg(long, value_name = "PATH", env = "KAR_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// Token of the sidecar
    #[arg(long, value_name = "TOKEN", env = "KAR_API_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Length of the load, seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Processes killed per second
    #[arg(long, value_name = "RATE", default_value_t = 2.0)]
    pub(crate) kills_per_second: f64,
    /// Transfers under way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) clients: u32,
    /// Accounts
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) accounts: u32,
    /// Seed of the kills and transfers [default: a random one, which is printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Keep the data directory, with the logs of all processes
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `kar version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// `kar __child`.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Process whose death ends the component.
    #[arg(long)]
    pub(crate) parent: i32,
    /// The component.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Parses how many, at least one.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("'{text}' is no count above 0"))
}

/// Parses `250ms`, `10s`, `5m`, `1h`; a bare number means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bad = || format!("'{text}' is no duration: write 250ms, 10s, 5m or 1h");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(ms_per_unit).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("ten").is_err());
        assert!(duration("1d").is_err());
        assert!(duration("99999999999999999999h").is_err());
    }

    #[test]
    fn counts_are_above_zero() {
        assert_eq!(count("7"), Ok(7));
        assert!(count("0").is_err() && count("-1").is_err() && count("many").is_err());
    }

    #[test]
    fn a_component_starts_at_the_first_word() {
        let cli = Cli::try_parse_from(["kar", "run", "--app", "a", "node", "s.js", "--port", "1"]);
        let Command::Run(run) = cli.expect("accepted").command else { panic!("run") };
        assert_eq!(run.command, ["node", "s.js", "--port", "1"]);
    }

    #[test]
    fn actors_are_named_by_type_and_id() {
        let cli = Cli::try_parse_from(["kar", "call", "--actor", "Account", "alice", "balance"]);
        let Command::Call(call) = cli.expect("accepted").command else { panic!("call") };
        assert_eq!(call.invocation.actor, Some(vec!["Account".into(), "alice".into()]));
        assert_eq!(call.invocation.words, ["balance"]);
    }
}
