//! `kar drain`, `purge`, `hub`, `version`, `completions`.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use kar_hub::{ClientConfig, HubClient, HubError, HubOptions, PurgeCount, SpawnHub, run_hub};
use kar_proto::v1::{DrainRequest, ListNodesRequest, ShutdownRequest};
use serde_json::json;

use super::args::{Cli, DataArgs, DrainArgs, Durability, Format, HubArgs, PurgeArgs};
use super::client::{Session, locate, with_session};
use super::exit::{Code, Effect, Failure, Outcome};
use super::payload;

/// Flags of a listening socket in `/proc/net/unix`.
const LISTENING: &str = "00010000";

/// `kar hub`: serves the data directory until a signal comes (or nobody has used it for a while).
/// Makes a runtime of its own.
pub(crate) fn hub(args: HubArgs) -> Outcome<u8> {
    if args.on_demand {
        inherit_nothing();
    }
    let mut options = HubOptions::new(args.data.data_dir);
    options.durability = match args.data.durability {
        Durability::Fsync => kar_hub::Durability::Fsync,
        Durability::Os => kar_hub::Durability::Os,
    };
    options.limits.compaction_bytes_per_second = args.compaction_bytes_per_second;
    options.limits.snapshot_bytes_max = args.snapshot_bytes_max;
    options.limits.snapshots_max = args.snapshots_max;
    options.limits.topics_max = args.topics_max;
    options.limits.topic_partitions_max = args.topic_partitions_max;
    options.limits.consumers_max = args.consumers_max;
    options.limits.topic_channels_max = args.topic_channels_max;
    options.limits.fetches_max = args.fetches_max;
    options.idle_exit = (!args.idle_exit.is_zero()).then_some(args.idle_exit);
    match run_hub(options) {
        Ok(_) => Ok(0),
        Err(error) if args.on_demand => {
            // The sidecar shows the last line of the hub's log to its user.
            eprintln!("kar: {error}");
            Ok(error.exit_code())
        }
        Err(error @ HubError::AlreadyRunning { .. }) => {
            Err(Failure::new(Code::Refused, error.to_string())
                .advise("nothing has to be done: sidecars find that one"))
        }
        Err(error) => Err(Failure::new(Code::Unavailable, error.to_string())),
    }
}

/// Closes all but standard input, output and error. Whoever needs a hub first starts it, and it outlives that: a pipe
/// that somebody reads to its end, or the lock of a wrapping `flock`, would stay open as long as the hub lives.
///
/// Call it before anything is opened.
fn inherit_nothing() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // The one that reads the list is among them; closed by then, closing it again does nothing.
    for inherited in numbers.filter(|number| *number > 2).collect::<Vec<_>>() {
        let _ = nix::unistd::close(inherited);
    }
}

/// `kar drain`.
pub(crate) async fn drain(args: DrainArgs) -> Outcome {
    let (token, shutdown) = (args.reach.api_token.as_deref(), args.shutdown);
    with_session(&args.reach, "the node goes on handing over", async |session| {
        let Some(node) = &args.node else { return drain_through(session, shutdown).await };
        let socket = socket_of(session, node, token).await?;
        drain_through(&Session::through(&socket, token).await?, shutdown).await
    })
    .await
}

async fn drain_through(session: &Session, shutdown: bool) -> Outcome {
    if session.own_node().is_some() {
        return Err(Failure::usage("which node?")
            .advise("give its name (`kar get nodes` lists them) or --socket, or set KAR_SOCKET"));
    }
    let failed = |status: tonic::Status| Failure::from_status(&status, Effect::Writes);
    if shutdown {
        session.system().shutdown(ShutdownRequest {}).await.map_err(failed)?;
    } else {
        session.system().drain(DrainRequest {}).await.map_err(failed)?;
    }
    eprintln!("{}", if shutdown { "it hands over and ends" } else { "it owns nothing any more" });
    Ok(())
}

/// The component's socket of a node: the members know its process, and the system knows where that
/// listens.
async fn socket_of(session: &Session, node: &str, token: Option<&str>) -> Outcome<PathBuf> {
    let failed = |status: tonic::Status| Failure::from_status(&status, Effect::Reads);
    let listed = session.system().list_nodes(ListNodesRequest {}).await.map_err(failed)?;
    let mut nodes = listed.into_inner().nodes;
    nodes.retain(|node| session.own_node() != Some(&node.name));
    let Some(info) = nodes.iter().find(|info| info.name == node) else {
        let names: Vec<_> = nodes.iter().map(|info| info.name.as_str()).collect();
        let advice = if names.is_empty() {
            "no node of this application is alive: is this the right --app and --data-dir?".into()
        } else {
            format!("there are: {}", names.join(", "))
        };
        return Err(Failure::new(Code::NotFound, format!("no node '{node}'")).advise(advice));
    };
    for socket in listening_sockets(info.process_id) {
        let Ok(session) = Session::through(&socket, token).await else { continue };
        let answer = session.info().await.ok().and_then(|info| info.node);
        if answer.is_some_and(|found| found.incarnation == info.incarnation) {
            return Ok(socket);
        }
    }
    Err(Failure::new(Code::Unavailable, format!("node '{node}' does not answer"))
        .advise("give its --socket; if it was started with a token, set KAR_API_TOKEN"))
}

/// Paths of the Unix sockets that a process of this machine listens on.
fn listening_sockets(process: i32) -> Vec<PathBuf> {
    let descriptors =
        std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: Vec<String> = links
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table.lines().filter_map(|line| listening_path(line, &inodes)).collect()
}

/// The path in a line of `/proc/net/unix` (`Num: RefCount Protocol Flags Type St Inode Path`) if it
/// is a listening socket with one of these inodes.
fn listening_path(line: &str, inodes: &[String]) -> Option<PathBuf> {
    let mut rest = line;
    // Before the path, which may have spaces of its own, the inode is the last field.
    let mut field = || {
        let (field, behind) = rest.trim_start_matches(' ').split_once(' ')?;
        rest = behind;
        Some(field)
    };
    let [.., flags, _, _, inode] =
        [field()?, field()?, field()?, field()?, field()?, field()?, field()?];
    let listens = flags == LISTENING;
    (listens && inodes.iter().any(|known| known == inode)).then(|| rest.into())
}

/// `kar purge`.
pub(crate) async fn purge(args: PurgeArgs) -> Outcome {
    if !args.data_dir.is_dir() {
        return Err(Failure::new(Code::NotFound, format!("no folder {}", args.data_dir.display()))
            .advise("nothing is stored there; is --data-dir right?"));
    }
    let hub = observe(&args.data_dir, &args.app, true).await.map_err(|e| hub_failure(&e))?;
    match hub.purge_application().await {
        Ok(count) => {
            eprintln!("{}", purged(&args, count));
            Ok(())
        }
        Err(error @ HubError::MembersAlive(_)) => {
            Err(Failure::new(Code::Refused, format!("not purged: {error}"))
                .advise(format!("stop its nodes first: kar get nodes --app {}", args.app)))
        }
        Err(error) => Err(hub_failure(&error)),
    }
}

/// What a purge has done, for people. A name that was mistyped must not look like a purge.
fn purged(args: &PurgeArgs, count: Option<PurgeCount>) -> String {
    let (app, dir) = (&args.app, args.data_dir.display());
    let gone = format!("nothing of application '{app}' is stored in {dir} any more");
    match count {
        Some(count) if count == PurgeCount::default() => format!(
            "nothing of application '{app}' was stored in {dir}, and nothing was deleted: is the name right?"
        ),
        Some(PurgeCount { kinds, logs, entries, consumers }) => format!(
            "deleted: services and actor types {kinds}, logs {logs}, entries of the store {entries}, \
             consumers {consumers}; {gone}"
        ),
        None => gone,
    }
}

/// Connects to the hub of a data directory without becoming a member; starts one if wanted.
pub(crate) async fn observe(
    data_dir: &Path,
    app: &str,
    start: bool,
) -> Result<HubClient, HubError> {
    let mut config = ClientConfig::new(data_dir, app, format!("cli-{}", std::process::id()));
    config.observer = true;
    if start {
        let data = DataArgs { data_dir: data_dir.to_owned(), durability: Durability::Fsync };
        let command = kar::config::SidecarConfig::new(app)
            .map_err(|e| HubError::Invalid(e.to_string()))
            .and_then(|mut config| {
                locate(&mut config, &data).map_err(|e| HubError::Invalid(e.message))?;
                Ok(config.hub)
            })?;
        config.spawn = command.map(|command| SpawnHub {
            program: command.program,
            args: command.args.into_iter().map(Into::into).collect(),
        });
    }
    HubClient::connect(config, |_| {}).await
}

/// What to tell the user about a hub that is not to be had.
pub(crate) fn hub_failure(error: &HubError) -> Failure {
    let code = match error {
        HubError::Invalid(_) => Code::Usage,
        _ => Code::Unavailable,
    };
    Failure::new(code, error.to_string())
        .advise("`kar doctor` (with the same --data-dir) says what is wrong")
}

/// `kar version`.
pub(crate) fn version(format: Format) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Table => payload::line(&format!("kar {version}")),
        Format::Json => payload::line(&json!({ "version": version, "api": "kar.v1" }).to_string()),
    }
}

/// `kar completions`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    payload::line(&completion_script(shell))
}

/// The script, without the commands that only `kar` itself uses.
fn completion_script(shell: clap_complete::Shell) -> String {
    let full = Cli::command();
    let visible = full.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
    let mut command =
        clap::Command::new("kar").args(full.get_arguments().cloned()).subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kar", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn scripts_complete_what_people_use() {
        let script = completion_script(Shell::Fish);
        assert!(script.contains("doctor") && script.contains("invocations"));
        assert!(!script.contains("__child") && !script.contains("__demo"));
    }

    #[test]
    fn the_sockets_of_a_process_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a b.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("listens");
        let process = i32::try_from(std::process::id()).expect("a process id");
        assert!(listening_sockets(process).contains(&path));
        assert_eq!(listening_sockets(0), Vec::<PathBuf>::new());
    }
}
