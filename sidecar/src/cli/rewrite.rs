//! The original KAR's command line: long flags with one dash and underscores (`-app hello`,
//! `-app_port=8080`), as Go's flag package takes them. They are rewritten to today's form before
//! clap sees them; what has no meaning any more is left out with a note, and what would silently
//! change where data goes is refused.

use std::ffi::OsString;

use clap::{ArgAction, Command};

use super::exit::{Failure, Outcome};

/// Flags of the original that mean nothing here, and whether a value follows.
const IGNORED: &[(&str, bool, &str)] = &[
    ("app-port", true, "the component opens the connection; no port of its own is needed"),
    ("h2c", false, "the component opens the connection"),
    ("hostname", true, "the component opens the connection"),
    ("kubernetes-mode", false, "a sidecar without a command is what a pod needs"),
    ("actor-collector-interval", true, "idle actors cost nothing"),
    ("actor-reminder-interval", true, "reminders need no polling"),
    ("actor-reminder-acceptable-delay", true, "reminders need no polling"),
    ("actor-busy-timeout", true, "calls wait; bound them with --start-within"),
    ("missing-component-timeout", true, "calls wait; bound them with --start-within"),
    ("request-retry-limit", true, "what was accepted is always carried out"),
    ("redis-slow-op-threshold", true, "there is no Redis in local mode"),
    ("config-dir", true, "settings are flags and environment variables"),
    ("rpclib", false, "there is one implementation"),
    ("placement-cache", false, "placement needs no cache"),
];

/// Other names of today's flags.
const RENAMED: &[(&str, &str)] = &[("runtime-port", "grpc-port"), ("v", "log")];

/// Arguments in today's form, and notes for the user on what was left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The arguments, the program's name first.
    pub(crate) args: Vec<OsString>,
    /// What was left out and why, one line each.
    pub(crate) notes: Vec<String>,
}

/// Rewrites `args` (the program's name first) for `command`.
pub(crate) fn rewrite(command: &Command, args: Vec<OsString>) -> Outcome<Rewritten> {
    let mut out = Rewritten::default();
    let mut rest = args.into_iter();
    let mut current = command;
    out.args.extend(rest.next());
    while let Some(arg) = rest.next() {
        let Some(text) = arg.to_str() else {
            out.args.push(arg);
            continue;
        };
        if text == "--" {
            out.args.push(arg);
            break;
        }
        if !text.starts_with('-') || text.len() < 2 {
            if let Some(sub) = current.find_subcommand(text) {
                current = sub;
            } else if current.get_positionals().any(clap::Arg::is_trailing_var_arg_set) {
                // The first word begins the component's command: everything after it is its own.
                out.args.push(arg);
                break;
            }
            out.args.push(arg);
            continue;
        }
        rewrite_flag(command, current, text, &mut rest, &mut out)?;
    }
    out.args.extend(rest);
    Ok(out)
}

/// Rewrites one flag; takes its value from `rest` if it has one.
fn rewrite_flag(
    root: &Command,
    current: &Command,
    text: &str,
    rest: &mut impl Iterator<Item = OsString>,
    out: &mut Rewritten,
) -> Outcome {
    let bare = text.trim_start_matches('-');
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    let name = name.replace('_', "-");
    let name = RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| (*new).into());
    if let Some(takes_value) = known(root, current, &name) {
        let flag = match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        };
        out.args.push(flag.into());
        if takes_value && value.is_none() {
            out.args.extend(rest.next());
        }
        return Ok(());
    }
    if let Some((_, takes_value, why)) = IGNORED.iter().find(|(old, ..)| *old == name) {
        if *takes_value && value.is_none() {
            let _ = rest.next();
        }
        out.notes.push(format!("{text} is not needed and was left out: {why}"));
        return Ok(());
    }
    if name.starts_with("kafka-") || name.starts_with("redis-") {
        return Err(Failure::usage(format!(
            "{text}: this version has local mode only, without Kafka and Redis"
        ))
        .advise("leave the flag out: data is kept by the local hub in --data-dir (default .kar)"));
    }
    // A short flag's value is the next word, which must not be mistaken for the component's
    // command.
    let short = (!text.starts_with("--") && text.len() == 2).then(|| bare.chars().next()).flatten();
    out.args.push(text.into());
    let takes_value = current
        .get_arguments()
        .chain(root.get_arguments().filter(|a| a.is_global_set()))
        .any(|a| short.is_some() && a.get_short() == short && takes_value(a));
    if takes_value {
        out.args.extend(rest.next());
    }
    Ok(())
}

/// Whether `name` is a long flag of `current` or a global one of `root`, and if so whether a value
/// follows.
fn known(root: &Command, current: &Command, name: &str) -> Option<bool> {
    if name == "help" {
        return Some(false);
    }
    current
        .get_arguments()
        .chain(root.get_arguments().filter(|a| a.is_global_set()))
        .find(|a| {
            a.get_long() == Some(name)
                || a.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        })
        .map(takes_value)
}

fn takes_value(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::args::Cli;
    use super::*;

    fn rewritten(line: &str) -> Outcome<Rewritten> {
        let mut command = Cli::command();
        command.build();
        rewrite(&command, line.split(' ').map(Into::into).collect())
    }

    fn check(line: &str, expected: &str, notes: usize) {
        let out = rewritten(line).expect("a line that is accepted");
        let got: Vec<_> = out.args.iter().map(|a| a.to_string_lossy()).collect();
        assert_eq!(got.join(" "), expected);
        assert_eq!(out.notes.len(), notes, "{:?}", out.notes);
    }

    #[test]
    fn the_originals_flags_are_rewritten() {
        check(
            "kar run -app hello -service greeter node server.js",
            "kar run --app hello --service greeter node server.js",
            0,
        );
        check(
            "kar run -app=hello -actors A,B -runtime_port 3500 -v info node s.js",
            "kar run --app=hello --actors A,B --grpc-port 3500 --log info node s.js",
            0,
        );
        check("kar purge -app hello", "kar purge --app hello", 0);
    }

    #[test]
    fn what_has_no_meaning_is_left_out_with_a_note() {
        check(
            "kar run -app_port 8080 -app hello -h2c -hostname=x node a",
            "kar run --app hello node a",
            3,
        );
    }

    #[test]
    fn the_components_own_flags_are_its_own() {
        check("kar run -app a node -app b", "kar run --app a node -app b", 0);
        check("kar run --app a -- prog -service x", "kar run --app a -- prog -service x", 0);
        check("kar run --app a --no-prefix node -v 1", "kar run --app a --no-prefix node -v 1", 0);
    }

    #[test]
    fn values_are_not_taken_for_commands() {
        check("kar call -app run s m", "kar call --app run s m", 0);
        check("kar get nodes -o json -app a", "kar get nodes -o json --app a", 0);
        check("kar call --app a s m -5", "kar call --app a s m -5", 0);
    }

    #[test]
    fn backends_that_are_not_there_are_refused() {
        let failure =
            rewritten("kar run -app a -kafka_brokers b:9092 node x").expect_err("refused");
        assert_eq!(failure.code, super::super::exit::Code::Usage);
    }
}
