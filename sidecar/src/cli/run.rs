//! `kar run`: a sidecar in this process, and a component beside it.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kar::config::{PartitionCount, SidecarConfig};
use kar::sidecar::Sidecar;
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::args::RunArgs;
use super::client::{Session, locate, start_failure};
use super::exit::{Code, Failure, Outcome};
use super::lines::Prefix;
use super::process::{Component, Launch};

/// How long the sidecar may take to leave once its component has ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a second Ctrl-C the component has so long before it is killed.
const HURRIED_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the first restart of a component that failed, and the longest one.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A component that ran for so long starts over with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_millis(500);
/// A component that has not registered what `--service` and `--actors` announce for so long is
/// worth a warning.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at what the component has registered.
const REGISTRATION_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Runs a sidecar with its component, if any, until either ends; returns the exit code.
pub(crate) async fn run(args: RunArgs) -> Outcome<u8> {
    check_command(&args.command)?;
    let config = configuration(&args)?;
    let data_dir = config.data_dir.clone();
    let mut signals = Signals::install()?;
    let start = Sidecar::start(config);
    let sidecar = tokio::select! {
        started = start => started.map_err(|e| start_failure(&e))?,
        asked = signals.next() => return Ok(exit_code_of(asked)),
    };
    tracing::info!(
        app = args.app,
        node = sidecar.node_name(),
        socket = %sidecar.socket().display(),
        grpc_port = sidecar.grpc_port(),
        "sidecar is ready"
    );
    watch_registration(&args, &sidecar);
    if args.command.is_empty() {
        return bare(sidecar, &mut signals).await;
    }
    let launch = launch(&args, data_dir, &sidecar);
    with_component(sidecar, launch, &mut signals, &args).await
}

/// Refuses a command that cannot be started, before a sidecar joins (and others hand over to it) in vain.
fn check_command(command: &[OsString]) -> Outcome {
    let Some(program) = command.first() else { return Ok(()) };
    let shown = program.display();
    if program.as_encoded_bytes().starts_with(b"-") {
        return Err(Failure::usage(format!("there is no flag {shown}")).advise(
            "`kar run -h` lists the usual flags, `--help` all; the command comes behind them",
        ));
    }
    let path = Path::new(program);
    let found = if path.components().count() > 1 || path.is_absolute() {
        path.exists()
    } else {
        let Some(folders) = std::env::var_os("PATH") else { return Ok(()) };
        std::env::split_paths(&folders).any(|folder| folder.join(path).exists())
    };
    if found {
        return Ok(());
    }
    let here = std::env::current_dir().unwrap_or_default();
    Err(Failure::new(Code::NoCommand, format!("there is no program {shown}"))
        .advise(format!("is it built, and on the PATH? this folder is {}", here.display())))
}

/// The sidecar's configuration.
fn configuration(args: &RunArgs) -> Outcome<SidecarConfig> {
    let wrong = |e: kar::config::ConfigError| Failure::usage(e.to_string());
    let mut config = SidecarConfig::new(&args.app).map_err(wrong)?;
    config.node_name.clone_from(&args.name);
    config.socket.clone_from(&args.socket);
    config.grpc_port = args.grpc_port;
    config.peer_listen = args.peer_listen;
    config.no_peer = args.no_peer;
    config.api_token = args.api_token.clone().filter(|token| !token.is_empty());
    config.partitions = PartitionCount::try_from(args.partitions).map_err(wrong)?;
    args.limits.apply(&mut config.limits);
    args.bounds.apply(&mut config.bounds);
    config.check().map_err(wrong)?;
    locate(&mut config, &args.data)?;
    Ok(config)
}

/// What the component is started with.
fn launch(args: &RunArgs, data_dir: PathBuf, sidecar: &Sidecar) -> Launch {
    let mut environment: Vec<(String, OsString)> = vec![
        ("KAR_APP".into(), args.app.clone().into()),
        ("KAR_DATA_DIR".into(), data_dir.into()),
        ("KAR_SOCKET".into(), sidecar.socket().into()),
        ("KAR_GRPC_PORT".into(), sidecar.grpc_port().to_string().into()),
    ];
    let optional = [
        ("KAR_API_TOKEN", args.api_token.clone().unwrap_or_default()),
        ("KAR_SERVICE", args.service.join(",")),
        ("KAR_ACTORS", args.actors.join(",")),
    ];
    for (name, value) in optional {
        if !value.is_empty() {
            environment.push((name.into(), value.into()));
        }
    }
    let label = args.name.as_deref().unwrap_or(&args.app);
    let colour =
        (io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()).then_some(0);
    let prefix = (!args.no_prefix).then(|| Prefix::new(label, 0, colour));
    Launch { command: args.command.clone(), environment, prefix }
}

/// How a component's life ended.
struct Ended {
    code: u8,
    /// Because somebody wanted it to.
    asked: bool,
    /// Because the sidecar cannot go on.
    failed: Option<String>,
}

impl Ended {
    fn with(code: u8, asked: bool) -> Self {
        Self { code, asked, failed: None }
    }
}

/// Runs the component, again and again if that is wanted, until it is over; then leaves.
async fn with_component(
    sidecar: Sidecar,
    launch: Launch,
    signals: &mut Signals,
    args: &RunArgs,
) -> Outcome<u8> {
    let failed = |what: &str, e: io::Error| Failure::internal(format!("cannot {what}: {e}"));
    let mut pause = RESTART_PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let mut component =
            Component::start(&launch).map_err(|e| failed("start the component", e))?;
        let ended = one_life(&sidecar, &mut component, signals, args.stop_timeout).await;
        let ended = ended.map_err(|e| failed("wait for the component", e))?;
        sidecar.component_died();
        component.flush().await;
        let Ended { code, asked, failed: None } = ended else {
            return Err(given_up(ended.failed.unwrap_or_default()));
        };
        if asked || code == 0 || !args.restart {
            tracing::info!(code, "component ended");
            leave(sidecar).await;
            return Ok(code);
        }
        if begun.elapsed() >= HEALTHY_AFTER {
            pause = RESTART_PAUSE_MIN;
        }
        tracing::warn!(code, ?pause, "component failed; starting it again");
        let over = tokio::select! {
            () = sleep(pause) => false,
            _ = signals.next() => true,
            () = sidecar.ended() => true,
            why = sidecar.failed() => return Err(given_up(why)),
        };
        if over {
            leave(sidecar).await;
            return Ok(code);
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// Waits until the component ends, or ends it when somebody asks for that.
async fn one_life(
    sidecar: &Sidecar,
    component: &mut Component,
    signals: &mut Signals,
    stop_timeout: Duration,
) -> io::Result<Ended> {
    let asked = loop {
        tokio::select! {
            code = component.wait() => return Ok(Ended::with(code?, false)),
            why = sidecar.failed() => {
                tracing::error!("{why}");
                let grace = HURRIED_STOP_TIMEOUT.min(stop_timeout);
                let code = component.stop(Signal::TERM, grace).await?;
                return Ok(Ended { code, asked: false, failed: Some(why) });
            }
            // A hang-up is the component's affair: many reload their settings.
            asked = signals.next() => match asked {
                Signal::HUP => component.signal(Signal::HUP),
                asked => break asked,
            },
            () = sidecar.ended() => break Signal::TERM,
        }
    };
    let code = hand_over_and_stop(sidecar, component, signals, asked, stop_timeout).await?;
    Ok(Ended::with(code, true))
}

/// What the command ends with when its sidecar cannot go on.
fn given_up(why: String) -> Failure {
    Failure::new(Code::Unavailable, why)
}

/// Hands the partitions over while the component goes on, then asks it to end. A second signal
/// hurries both.
async fn hand_over_and_stop(
    sidecar: &Sidecar,
    component: &mut Component,
    signals: &mut Signals,
    asked: Signal,
    stop_timeout: Duration,
) -> io::Result<u8> {
    tracing::info!("handing over; a second signal hurries");
    let grace = tokio::select! {
        all = sidecar.drain() => {
            if !all {
                tracing::warn!("not everything could be handed over in time; others take it over");
            }
            stop_timeout
        }
        code = component.wait() => return code,
        _ = signals.next() => HURRIED_STOP_TIMEOUT.min(stop_timeout),
    };
    tokio::select! {
        code = component.stop(asked, grace) => return code,
        _ = signals.next() => {}
    }
    component.stop(Signal::TERM, HURRIED_STOP_TIMEOUT).await
}

/// A sidecar without a component of its own: runs until asked to end.
async fn bare(sidecar: Sidecar, signals: &mut Signals) -> Outcome<u8> {
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                // It has no terminal to lose and nothing to reload.
                Signal::HUP => continue,
                _ => break,
            },
            () = sidecar.ended() => break,
            why = sidecar.failed() => return Err(given_up(why)),
        }
    }
    tracing::info!("handing over; a second signal hurries");
    tokio::select! {
        () = sidecar.shutdown() => Ok(0),
        asked = signals.next() => Ok(exit_code_of(asked)),
    }
}

async fn leave(sidecar: Sidecar) {
    if timeout(LEAVE_TIMEOUT, sidecar.shutdown()).await.is_err() {
        tracing::warn!("the sidecar did not leave in time; others take over from it");
    }
}

/// Warns if the component does not offer what the command line announced: a typing error there
/// would otherwise show as calls that wait for ever.
fn watch_registration(args: &RunArgs, sidecar: &Sidecar) {
    let expected: Vec<String> = args.service.iter().chain(&args.actors).cloned().collect();
    if expected.is_empty() || args.command.is_empty() {
        return;
    }
    let (socket, token) = (sidecar.socket().to_owned(), args.api_token.clone());
    tokio::spawn(async move {
        let deadline = Instant::now() + REGISTRATION_PATIENCE;
        let mut ticks = interval(REGISTRATION_LOOK_INTERVAL);
        let looking = async {
            loop {
                ticks.tick().await;
                let Ok(session) = Session::through(&socket, token.as_deref()).await else {
                    continue;
                };
                let node = session.info().await.ok().and_then(|info| info.node).unwrap_or_default();
                let found = |kind| node.services.contains(kind) || node.actor_types.contains(kind);
                if expected.iter().all(found) {
                    return;
                }
            }
        };
        if timeout_at(deadline, looking).await.is_err() {
            tracing::warn!(
                announced = expected.join(","),
                "the component has not registered all that --service and --actors announce"
            );
        }
    });
}

/// Signals that this process handles.
struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
}

impl Signals {
    fn install() -> Outcome<Self> {
        let stream = |kind| {
            signal(kind).map_err(|e| Failure::internal(format!("cannot handle signals: {e}")))
        };
        Ok(Self {
            interrupt: stream(SignalKind::interrupt())?,
            terminate: stream(SignalKind::terminate())?,
            hangup: stream(SignalKind::hangup())?,
        })
    }

    /// The next one.
    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// 128 + n for signal n.
fn exit_code_of(signal: Signal) -> u8 {
    super::child::exit_code(None, Some(signal.as_raw()))
}
