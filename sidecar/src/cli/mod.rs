//! The command line: parses it, does what it says, and ends with an exit code that says how it went
//! (see [`exit`]).

mod actor;
mod admin;
mod args;
mod call;
mod child;
mod client;
mod control;
mod demo;
mod doctor;
mod event;
mod exit;
mod filter;
mod follow;
mod get;
mod invocation;
mod limits;
mod lines;
mod listing;
mod logging;
mod output;
mod payload;
mod process;
mod reminder;
mod rewrite;
mod run;
mod state;
mod subscription;
mod up;
mod watch;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command, GetCommand};
use exit::{Code, Failure, Outcome};

/// Runs the command line `args`, the program's name first.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    if args.get(1).is_some_and(|first| first == child::EXEC) {
        return child::exec(&args[2..]);
    }
    match parse(args).and_then(|cli| {
        logging::start(&cli)?;
        run(cli.command)
    }) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // The terminal shows `^C` on the line.
            let break_line = failure.code == Code::Interrupted && std::io::stderr().is_terminal();
            eprintln!("{}{failure}", if break_line { "\n" } else { "" });
            failure.code.into()
        }
    }
}

/// Parses the command line, which may be in the original KAR's form. Ends the process for `--help`
/// and wrong use.
fn parse(args: Vec<OsString>) -> Outcome<Cli> {
    let mut command = Cli::command();
    command.build();
    let rewritten = rewrite::rewrite(&command, args)?;
    for note in &rewritten.notes {
        eprintln!("kar: note: {note}");
    }
    let parsed = Cli::command()
        .try_get_matches_from(rewritten.args)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    // Help and version come as errors too, with code 0.
    parsed.map_err(|error| if error.use_stderr() { wrong_use(&error) } else { error.exit() })
}

/// Tells what is wrong and ends the process. Who has mistyped a flag is shown the short help: the long one has every
/// bound of a sidecar.
fn wrong_use(error: &clap::Error) -> ! {
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = error.render();
    let text = if coloured { text.ansi().to_string() } else { text.to_string() };
    match text.rsplit_once("--help") {
        Some((before, behind)) if before.contains("For more information, try") => {
            eprint!("{before}-h{behind}");
        }
        _ => eprint!("{text}"),
    }
    std::process::exit(error.exit_code())
}

/// Carries out a command on a runtime of one thread: a sidecar needs no more, and is quicker so.
fn run(command: Command) -> Outcome<u8> {
    let command = match command {
        // A hub makes a runtime of its own.
        Command::Hub(args) => return admin::hub(args),
        other => other,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
    let code = runtime.block_on(dispatch(command));
    // Threads that wait on standard input or output must not keep a finished command alive.
    runtime.shutdown_background();
    code
}

async fn dispatch(command: Command) -> Outcome<u8> {
    let done = match command {
        Command::Run(args) => return run::run(*args).await,
        Command::Up(args) => return up::up(args).await,
        Command::Child(args) => return child::supervise(args).await,
        Command::Demo(args) => return demo::demo(args).await,
        Command::Doctor(args) => return doctor::doctor(args).await,
        Command::Hub(_) => return Err(Failure::internal("a hub makes a runtime of its own")),
        Command::DemoApp => demo::app::run().await,
        Command::Call(args) => call::call(args).await,
        Command::Tell(args) => call::tell(args).await,
        Command::Invoke(args) => call::invoke(args).await,
        Command::Start(args) => call::start(args).await,
        Command::Await(args) => call::wait(args).await,
        Command::Cancel(args) => control::cancel(args).await,
        Command::Resume(args) => control::resume(args).await,
        Command::Redrive(args) => control::redrive(args).await,
        Command::Discard(args) => control::discard(args).await,
        Command::State(args) => state::state(args.command).await,
        Command::Actor(args) => actor::actor(args.command).await,
        Command::Reminder(args) => reminder::reminder(args.command).await,
        Command::Topic(args) => event::topic(args.command).await,
        Command::Publish(args) => event::publish(*args).await,
        Command::Subscribe(args) => follow::subscribe(*args).await,
        Command::Subscription(args) => subscription::subscription(args.command).await,
        Command::Get(args) => match args.what {
            GetCommand::Nodes { list, watch: false } => get::nodes(list).await,
            GetCommand::Nodes { list, watch: true } => watch::nodes(list).await,
            GetCommand::Actors { list, kind } => get::actors(list, kind).await,
            GetCommand::Invocations { list, id: Some(id), .. } => invocation::show(list, id).await,
            GetCommand::Invocations { list, kind, id: None } => get::invocations(list, kind).await,
            GetCommand::Topics { list } => event::topics(list).await,
            GetCommand::Subscriptions { list } => subscription::subscriptions(list).await,
            GetCommand::DeadLetters { list, kind } => get::dead_letters(list, kind).await,
        },
        Command::Drain(args) => admin::drain(args).await,
        Command::Purge(args) => admin::purge(args).await,
        Command::Version(args) => admin::version(args.output),
        Command::Completions(args) => admin::completions(args.shell),
    };
    done.map(|()| 0)
}
