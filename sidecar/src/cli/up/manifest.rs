//! The file that `kar up` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kar_core::ids::is_name;
use serde::Deserialize;

use super::super::args::duration;
use super::super::exit::{Failure, Outcome};

/// Most replicas of one component.
const REPLICAS_MAX: u32 = 64;

/// An application's components.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Manifest {
    /// Application.
    pub(crate) app: String,
    /// Folder of local mode, relative to the file; `.kar` if absent.
    #[serde(default, alias = "data_dir")]
    pub(crate) data_dir: Option<PathBuf>,
    /// `fsync` or `os`.
    #[serde(default)]
    durability: Option<String>,
    /// Components by name.
    pub(crate) components: BTreeMap<String, Component>,
}

/// One component.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Component {
    command: CommandLine,
    #[serde(default, alias = "services")]
    service: Names,
    #[serde(default)]
    actors: Names,
    #[serde(default)]
    env: BTreeMap<String, Scalar>,
    /// Working directory, relative to the file.
    #[serde(default)]
    pub(crate) dir: Option<PathBuf>,
    /// How many of it.
    #[serde(default = "one")]
    pub(crate) replicas: u32,
    /// When it is started again.
    #[serde(default)]
    pub(crate) restart: Restart,
    #[serde(default, alias = "stop_timeout")]
    stop_timeout: Option<String>,
    /// Its sidecar has no peer plane.
    #[serde(default, alias = "no_peer")]
    no_peer: bool,
}

/// When a component that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restart {
    /// Whenever it ended.
    Always,
    /// When it ended with an exit code other than 0, or by a signal.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CommandLine {
    /// Goes through the shell.
    Text(String),
    /// Is executed as it is.
    List(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl Manifest {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Outcome<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::usage(format!("cannot read {shown}: {e}"))
                .advise("name the file: kar up FILE; `kar up --help` shows what is in one")
        })?;
        Self::parse(&text).map_err(|problem| {
            Failure::usage(format!("{shown}: {problem}")).advise("`kar up --help` has an example")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if !is_name(&manifest.app) {
            return Err(format!("'{}' is no name of an application", manifest.app));
        }
        if !matches!(manifest.durability.as_deref(), None | Some("fsync" | "os")) {
            return Err("durability is fsync or os".into());
        }
        if manifest.components.is_empty() {
            return Err("there are no components".into());
        }
        for (name, component) in &manifest.components {
            component.check(name).map_err(|problem| format!("component '{name}': {problem}"))?;
        }
        Ok(manifest)
    }
}

impl Component {
    fn check(&self, name: &str) -> Result<(), String> {
        if !is_name(name) {
            return Err("a name has only A-Z a-z 0-9 _ - . and does not start with . or -".into());
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(format!("replicas must be 1 to {REPLICAS_MAX}"));
        }
        let empty = match &self.command {
            CommandLine::Text(text) => text.trim().is_empty(),
            CommandLine::List(words) => words.is_empty(),
        };
        if empty {
            return Err("the command is empty".into());
        }
        self.stop_timeout.as_deref().map_or(Ok(()), |text| duration(text).map(drop))
    }

    /// Arguments of `kar` that run it.
    pub(crate) fn arguments(
        &self,
        manifest: &Manifest,
        label: &str,
        data_dir: &Path,
    ) -> Outcome<Vec<String>> {
        let data_dir = data_dir
            .to_str()
            .ok_or_else(|| Failure::usage("the data directory's path is not UTF-8"))?;
        let mut words: Vec<String> = vec!["run".into()];
        let mut flag = |name: &str, value: &str| words.extend([name.into(), value.into()]);
        flag("--app", &manifest.app);
        flag("--name", label);
        flag("--data-dir", data_dir);
        if let Some(level) = &manifest.durability {
            flag("--durability", level);
        }
        if let Some(timeout) = &self.stop_timeout {
            flag("--stop-timeout", timeout);
        }
        for service in self.service.all() {
            flag("--service", service);
        }
        for kind in self.actors.all() {
            flag("--actors", kind);
        }
        if self.no_peer {
            words.push("--no-peer".into());
        }
        words.push("--no-prefix".into());
        if self.restart != Restart::Never {
            // The sidecar stays and keeps what it owns; it is started anew only if it fails itself.
            words.push("--restart".into());
        }
        words.push("--".into());
        match &self.command {
            CommandLine::Text(text) => words.extend(["sh".into(), "-c".into(), text.clone()]),
            CommandLine::List(list) => words.extend(list.iter().cloned()),
        }
        Ok(words)
    }

    /// Variables on top of this process's own.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        self.env.iter().map(|(name, value)| (name.clone(), value.text())).collect()
    }
}

impl Names {
    fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
            Self::None => &[],
        }
    }
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file of the help text, without the first line.
    fn example() -> &'static str {
        super::super::EXAMPLE.split_once('\n').expect("a heading and a file").1
    }

    #[test]
    fn the_example_of_the_help_is_accepted() {
        let manifest = Manifest::parse(example()).expect("accepted");
        assert_eq!(manifest.app, "shop");
        let carts = &manifest.components["carts"];
        let words = carts.arguments(&manifest, "carts.1", Path::new("/d")).expect("UTF-8");
        let expected = "run --app shop --name carts.1 --data-dir /d --actors Cart --no-prefix \
                        --restart -- node carts.js";
        assert_eq!(words.join(" "), expected);
        let web = &manifest.components["web"];
        assert_eq!(web.environment()["PORT"], "8080");
        assert_eq!(web.restart, Restart::Always);
        let words = web.arguments(&manifest, "web", Path::new("/d")).expect("UTF-8");
        assert_eq!(words[words.len() - 3..], ["sh", "-c", "python3 web.py"]);
    }

    #[test]
    fn a_component_may_do_without_peers() {
        let text = "app: a\ncomponents:\n  x:\n    command: serve\n    no-peer: true\n  z:\n    command: serve\n";
        let manifest = Manifest::parse(text).expect("accepted");
        let words = |name: &str| {
            let component = &manifest.components[name];
            component.arguments(&manifest, name, Path::new("/d")).expect("UTF-8")
        };
        let at = |words: &[String]| words.iter().position(|word| word == "--no-peer");
        let command = words("x").iter().position(|word| word == "--").expect("a command");
        // An argument of the sidecar, not of the command.
        assert!(at(&words("x")).is_some_and(|at| at < command));
        assert_eq!(at(&words("z")), None);
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = Manifest::parse("app: a\ncomponents:\n  x:\n    comand: y\n");
        assert!(unknown.expect_err("refused").contains("comand"));
        let none = Manifest::parse("app: a\ncomponents: {}\n").expect_err("refused");
        assert!(none.contains("no components"));
        let many = Manifest::parse("app: a\ncomponents: {x: {command: y, replicas: 0}}\n");
        assert!(many.expect_err("refused").contains("replicas"));
        assert!(Manifest::parse("app: 'a b'\ncomponents: {x: {command: y}}\n").is_err());
    }
}
