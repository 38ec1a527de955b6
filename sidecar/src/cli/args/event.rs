//! The command line of `kar topic`, `kar publish` and `kar subscribe`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use kar_proto::v1::EventFilter;
use prost_types::Timestamp;

use super::super::filter;
use super::{Format, ReachArgs, count, duration};

/// `kar topic`.
#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TopicCommand,
}

/// What `kar topic` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic; one of the same settings is left as it is
    Create(Box<CreateArgs>),
    /// Delete a topic with its events, for good
    Delete {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Name of the topic
        topic: String,
    },
    /// Forget a consumer of the application with its position
    Forget {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Name of the topic
        topic: String,
        /// Name of the consumer
        consumer: String,
    },
}

/// `kar topic create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Name of the topic; all applications of the data directory use the same ones
    pub(crate) topic: String,
    /// Partitions, fixed from then on
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub(crate) partitions: i32,
    /// Keep events for so long at least [default: 7 days]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retention: Option<Duration>,
    /// Keep so many bytes of events of a partition, the newest ones [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) retention_bytes: Option<i64>,
    /// Neither of the two has a default: what is not said has no bound
    #[arg(long)]
    pub(crate) keep_forever: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
    kar publish orders '{\"id\":7}' --type order.created --key alice
Prints where the event is: PARTITION/OFFSET.")]
pub(crate) struct PublishArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Topic
    pub(crate) topic: String,
    /// The data, as JSON [default: none]
    #[arg(allow_negative_numbers = true, value_name = "JSON")]
    pub(crate) data: Option<String>,
    /// Publish this file's content instead; `-`: standard input
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) file: Option<PathBuf>,
    /// Type of the content of --file
    #[arg(long, value_name = "MIME", default_value = "application/json")]
    pub(crate) content_type: String,
    /// CloudEvents `type`: what happened [default: kar.event]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// CloudEvents `source`: who publishes [default: /APPLICATION/NODE]
    #[arg(long, value_name = "URI")]
    pub(crate) source: Option<String>,
    /// CloudEvents `subject`
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// CloudEvents `id` [default: a new one]
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// CloudEvents `time`: when it happened, such as 2030-01-31T09:30:00Z [default: now]
    #[arg(long, value_parser = time)]
    pub(crate) time: Option<Timestamp>,
    /// CloudEvents `dataschema`
    #[arg(long, value_name = "URI")]
    pub(crate) data_schema: Option<String>,
    /// Extension attribute (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) attribute: Vec<(String, String)>,
    /// Events with the same key stay in order
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Sent again with the same id it is published once
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar subscribe`.
#[derive(Debug, Args)]
#[command(after_help = "\
    kar subscribe orders --from earliest --exact type=order.created
    kar subscribe orders --filter '{\"not\":{\"prefix\":{\"type\":\"order.\"}}}'
With --consumer it goes on where it was when it was last run, and every event is acknowledged when it
is printed. Ctrl-C ends it.")]
pub(crate) struct SubscribeArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Topic
    pub(crate) topic: String,
    /// Where to begin: earliest, latest, a time such as 2030-01-31T09:30:00Z, or PARTITION/OFFSET
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(crate) from: String,
    /// Name under which it is remembered how far this has come
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
    /// Which events.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub(crate) limit: Option<usize>,
    /// How to print (json: a line for each event, in the JSON form of CloudEvents)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only events whose attribute is this (repeatable: all must hold)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) exact: Vec<(String, String)>,
    /// Only events whose attribute begins with this
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) prefix: Vec<(String, String)>,
    /// Only events whose attribute ends with this
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) suffix: Vec<(String, String)>,
    /// Only events that match this filter of the CloudEvents Subscriptions API: an object with one of
    /// exact, prefix, suffix, all, any, not
    #[arg(long, value_name = "JSON", value_parser = filter::parse)]
    pub(crate) filter: Vec<EventFilter>,
}

/// `kar subscription`.
#[derive(Debug, Args)]
pub(crate) struct SubscriptionArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: SubscriptionCommand,
}

/// What `kar subscription` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// Deliver a topic's events to a method; a subscription of the same settings is left as it is
    Create(Box<NewSubscription>),
    /// End a subscription; what was accepted by its target is carried through
    Delete {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Name of the subscription
        name: String,
    },
    /// Read nothing more, and keep the place
    Pause {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Name of the subscription
        name: String,
    },
    /// Send the events of its dead-letter topic back to it
    Redrive(Box<RedriveArgs>),
    /// Go on where it was paused
    Resume {
        /// The application.
        #[command(flatten)]
        reach: ReachArgs,
        /// Name of the subscription
        name: String,
    },
}

/// `kar subscription redrive`.
#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Name of the subscription
    pub(crate) name: String,
    /// At most so many events at once
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub(crate) limit: i32,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// `kar subscription create`.
#[derive(Debug, Args)]
#[command(after_help = "\
    kar subscription create totals orders --actor Customer --id-from subject --method ordered
    kar subscription create audit orders --service audit --method record --from latest
To follow a topic on the terminal: kar subscribe.")]
pub(crate) struct NewSubscription {
    /// The application.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Name of the subscription
    pub(crate) name: String,
    /// Topic
    pub(crate) topic: String,
    /// Deliver to this service
    #[arg(
        long,
        value_name = "SERVICE",
        conflicts_with = "actor",
        required_unless_present = "actor"
    )]
    pub(crate) service: Option<String>,
    /// Deliver to actors of this type
    #[arg(long, value_name = "TYPE", requires = "instance")]
    pub(crate) actor: Option<String>,
    /// … to this instance
    #[arg(long, value_name = "ID", requires = "actor", group = "instance")]
    pub(crate) id: Option<String>,
    /// … to the instance that this attribute of the event names, `subject` say
    #[arg(long, value_name = "ATTRIBUTE", requires = "actor", group = "instance")]
    pub(crate) id_from: Option<String>,
    /// Handle events of a service with the same value of this attribute at the same owner
    #[arg(long, value_name = "ATTRIBUTE", requires = "service")]
    pub(crate) affinity_from: Option<String>,
    /// Method
    #[arg(long)]
    pub(crate) method: String,
    /// Where to begin: earliest, latest, or a time such as 2030-01-31T09:30:00Z
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    pub(crate) from: String,
    /// Which events.
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Events of a partition that may be on their way [default: 256]
    #[arg(long, value_name = "COUNT")]
    pub(crate) in_flight: Option<i32>,
    /// Attempts of the method, where its errors are retryable [default: as its host says]
    #[arg(long, value_name = "COUNT")]
    pub(crate) attempts: Option<i32>,
    /// Topic for events whose delivery ends without success
    #[arg(long, value_name = "TOPIC")]
    pub(crate) dead_letter_topic: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "it must be a time such as 2030-01-31T09:30:00Z".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
