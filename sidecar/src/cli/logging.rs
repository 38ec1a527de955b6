//! Log lines go to standard error, through `tracing`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use super::args::{Cli, Command, LogFormat};
use super::exit::{Failure, Outcome};

/// Starts logging as the command line says.
pub(crate) fn start(cli: &Cli) -> Outcome {
    let default = match cli.command {
        Command::Run(_) | Command::Up(_) | Command::Hub(_) => "info",
        // It kills the hub that its own sidecar uses, and shows that itself.
        Command::Demo(_) => "off",
        _ => "warn",
    };
    let text = cli.log.as_deref().filter(|text| !text.is_empty()).unwrap_or(default);
    let filter = EnvFilter::builder().parse(text).map_err(|e| {
        Failure::usage(format!("--log (KAR_LOG) '{text}': {e}")).advise(
            "write off, error, warn, info, debug or trace, or a filter such as \
                 info,kar::peer=debug",
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let result = match cli.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => {
            builder.with_ansi(io::stderr().is_terminal()).with_target(false).compact().try_init()
        }
    };
    result.map_err(|e| Failure::internal(format!("cannot start logging: {e}")))
}
