//! `kar up`: all components of an application from one file, each under a `kar run` of its own,
//! their output interleaved line by line.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::args::UpArgs;
use super::child::{dying_with_this, own_executable};
use super::exit::{Failure, Outcome};
use super::lines::{Prefix, Pump, Sink};
use super::payload;
use manifest::{Manifest, Restart};

pub(crate) mod manifest;

/// What a file looks like; the end of `kar up --help`.
pub(crate) const EXAMPLE: &str = "\
Example of a file:
  app: shop
  components:
    carts:
      actors: [Cart]
      command: [node, carts.js]      # a text instead of a list goes through the shell
      replicas: 2
    web:
      service: web
      command: python3 web.py
      dir: web                       # relative to the file
      env: {PORT: 8080}
      restart: always                # or on-failure (default), never";

/// Pause before the first restart, and the longest one.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A component that ran for so long starts over with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long components may take to end, all their own bounds included, before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);
/// How long the last output may take.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// One process to keep running.
#[derive(Clone, Debug)]
struct Instance {
    label: String,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    dir: std::path::PathBuf,
    restart: Restart,
    prefix: Prefix,
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Running,
    Stopping,
    Killing,
}

/// Runs the file's components until all have ended or somebody asks for the end. Returns the first
/// exit code that is not 0.
pub(crate) async fn up(args: UpArgs) -> Outcome<u8> {
    let manifest = Manifest::read(&args.file)?;
    let instances = instances(&manifest, &args)?;
    if args.dry_run {
        for instance in &instances {
            let words: Vec<_> = instance.arguments.iter().map(|word| quoted(word)).collect();
            payload::line(&format!("{}: kar {}", instance.label, words.join(" ")))?;
        }
        return Ok(0);
    }
    let mut interrupt = stream(SignalKind::interrupt())?;
    let mut terminate = stream(SignalKind::terminate())?;
    let mut hangup = stream(SignalKind::hangup())?;
    let (stage, watching) = watch::channel(Stage::Running);
    let mut running = JoinSet::new();
    for instance in instances {
        running.spawn(keep_running(instance, watching.clone()));
    }
    let mut first_failure = 0;
    loop {
        let asked = tokio::select! {
            ended = running.join_next() => match ended {
                None => return Ok(first_failure),
                Some(Ok(code)) => {
                    first_failure = if first_failure == 0 { code } else { first_failure };
                    continue;
                }
                Some(Err(e)) => return Err(Failure::internal(format!("a component was lost: {e}"))),
            },
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        let next = if *stage.borrow() == Stage::Running { Stage::Stopping } else { Stage::Killing };
        tracing::info!(
            signal = asked.as_raw(),
            "ending all components; a second signal kills them"
        );
        stage.send_replace(next);
    }
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn stream(kind: SignalKind) -> Outcome<tokio::signal::unix::Signal> {
    signal(kind).map_err(|e| Failure::internal(format!("cannot handle signals: {e}")))
}

/// What is to be run, one entry for each replica.
fn instances(manifest: &Manifest, args: &UpArgs) -> Outcome<Vec<Instance>> {
    for name in &args.only {
        if !manifest.components.contains_key(name) {
            let known: Vec<_> = manifest.components.keys().cloned().collect();
            return Err(Failure::usage(format!(
                "no component '{name}' in {}",
                args.file.display()
            ))
            .advise(format!("it has: {}", known.join(", "))));
        }
    }
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| Failure::internal(format!("{}: {e}", path.display())))
    };
    let base = absolute(args.file.parent().unwrap_or(Path::new("")).join(".").as_path())?;
    let data_dir = match (&args.data_dir, &manifest.data_dir) {
        (Some(given), _) => absolute(given)?,
        (None, Some(written)) => base.join(written),
        (None, None) => base.join(kar::config::DEFAULT_DATA_DIR),
    };
    let wanted = manifest
        .components
        .iter()
        .filter(|(name, _)| args.only.is_empty() || args.only.contains(name));
    let mut made = Vec::new();
    for (name, component) in wanted {
        for replica in 1..=component.replicas {
            let label =
                if component.replicas == 1 { name.clone() } else { format!("{name}.{replica}") };
            made.push(Instance {
                arguments: component.arguments(manifest, &label, &data_dir)?,
                environment: component.environment(),
                dir: base.join(component.dir.as_deref().unwrap_or(Path::new("."))),
                restart: component.restart,
                prefix: Prefix::default(),
                label,
            });
        }
    }
    let width = made.iter().map(|instance| instance.label.len()).max().unwrap_or(0);
    let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for (index, instance) in made.iter_mut().enumerate() {
        instance.prefix = Prefix::new(&instance.label, width, coloured.then_some(index));
    }
    Ok(made)
}

/// Runs one instance, again and again as its policy says. Returns its last exit code.
async fn keep_running(instance: Instance, mut stage: watch::Receiver<Stage>) -> u8 {
    let mut backoff = BACKOFF_MIN;
    loop {
        let begun = Instant::now();
        let code = match run_once(&instance, &mut stage).await {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(component = instance.label, %error, "cannot be run");
                1
            }
        };
        let stopping = *stage.borrow() != Stage::Running;
        let again = match instance.restart {
            Restart::Always => true,
            Restart::OnFailure => code != 0,
            Restart::Never => false,
        };
        if stopping || !again {
            tracing::info!(component = instance.label, code, "ended");
            return code;
        }
        if begun.elapsed() >= HEALTHY_AFTER {
            backoff = BACKOFF_MIN;
        }
        let component = &instance.label;
        tracing::warn!(component, code, pause = ?backoff, "ended; starting it again");
        let _ = timeout(backoff, stage.wait_for(|stage| *stage != Stage::Running)).await;
        if *stage.borrow() != Stage::Running {
            return code;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn run_once(instance: &Instance, stage: &mut watch::Receiver<Stage>) -> io::Result<u8> {
    let (mut child, pumps) = start(instance)?;
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        // The sender lives as long as `up` waits for this task.
        _ = stage.wait_for(|stage| *stage != Stage::Running) => None,
    };
    let status = match ended {
        Some(status) => status,
        None => stop(&mut child, stage).await,
    }?;
    for pump in pumps {
        let _ = timeout(OUTPUT_GRACE, pump.finished()).await;
    }
    Ok(super::process::code_of(status))
}

async fn stop(
    child: &mut Child,
    stage: &mut watch::Receiver<Stage>,
) -> io::Result<std::process::ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM)?;
    }
    tokio::select! {
        status = child.wait() => return status,
        _ = stage.wait_for(|stage| *stage == Stage::Killing) => {}
        () = sleep(STOP_TIMEOUT) => {}
    }
    child.start_kill()?;
    child.wait().await
}

/// Starts `kar run` for an instance; it dies with this process, and its component with it.
fn start(instance: &Instance) -> io::Result<(Child, [Pump; 2])> {
    let mut line = vec![own_executable()?.into_os_string()];
    line.extend(instance.arguments.iter().map(Into::into));
    let (stdout, stdout_writer) = io::pipe()?;
    let (stderr, stderr_writer) = io::pipe()?;
    let mut command = dying_with_this(&line)?;
    command
        .envs(&instance.environment)
        .current_dir(&instance.dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(stdout_writer)
        .stderr(stderr_writer);
    let child = Command::from(command).kill_on_drop(true).spawn()?;
    let pumps = [
        Pump::start(stdout, instance.prefix.clone(), Sink::Stdout)?,
        Pump::start(stderr, instance.prefix.clone(), Sink::Stderr)?,
    ];
    Ok((child, pumps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quoted("--data-dir"), "--data-dir");
        assert_eq!(quoted("echo hi; exit 3"), "'echo hi; exit 3'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
