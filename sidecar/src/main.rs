//! `kar`: one binary for the sidecar, the local hub and the command line.
//!
//! Boot: a component about to be executed is handed over at once; the command line is brought into
//! today's form and parsed; logging starts; then one single-threaded runtime carries the command to
//! its exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect())
}
