//! The command line of `kar topic`, `kar publish` and `kar subscribe`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

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
    /// Only events whose attribute is this (repeatable: all must hold)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) exact: Vec<(String, String)>,
    /// Only events whose attribute begins with this
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) prefix: Vec<(String, String)>,
    /// Only events whose attribute ends with this
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) suffix: Vec<(String, String)>,
    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub(crate) limit: Option<usize>,
    /// How to print (json: a line for each event, in the JSON form of CloudEvents)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
