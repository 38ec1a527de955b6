//! Python: the interpreters that `cargo xtask python` has prepared, and the samples of the SDK.

use std::path::{Path, PathBuf};

use crate::binaries;

/// How the SDK was installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Install {
    /// From the wheel, as users do; nothing of the source tree is seen but the sample itself.
    Wheel,
    /// From the source tree, as people do who work on the SDK.
    Source,
}

/// Both.
pub const INSTALLS: [Install; 2] = [Install::Wheel, Install::Source];

/// An interpreter that has the SDK; `None`, and a note that the test is skipped, if this machine has no Python.
///
/// # Panics
///
/// If there is a Python but nothing was prepared: a language that was not built is a failure, not something to pass
/// over.
pub fn interpreter(install: Install) -> Option<PathBuf> {
    let name = match install {
        Install::Wheel => "wheel",
        Install::Source => "source",
    };
    let target = binaries::folder().parent().expect("the profile's folder lies in target");
    let path = target.join("python").join(name).join("bin/python");
    if path.exists() {
        return Some(path);
    }
    if std::env::var_os("KAR_NO_PYTHON").is_some() {
        crate::skip("no Python 3.11 or later");
        return None;
    }
    panic!("{} is not there: run `cargo xtask python`, or set KAR_NO_PYTHON", path.display());
}

/// The command of one of the SDK's samples; `None` as in [`interpreter`].
pub fn sample(install: Install, sample: &str) -> Option<Vec<String>> {
    script(install, &format!("samples/{sample}"))
}

/// The command of a program in the SDK's folder; `None` as in [`interpreter`].
///
/// # Panics
///
/// As [`interpreter`]; and if the path is not UTF-8.
pub fn script(install: Install, path: &str) -> Option<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let script = root.join("sdk-clients/python").join(path);
    assert!(script.exists(), "{} is not there", script.display());
    let words = [interpreter(install)?, script];
    Some(words.iter().map(|w| w.to_str().expect("the path is UTF-8").to_owned()).collect())
}
