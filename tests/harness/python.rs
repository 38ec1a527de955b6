//! Python: the interpreters that `cargo xtask python` has prepared, and the samples of the SDK.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::binaries;

/// Set by `cargo xtask test` where Python is not there.
const ABSENT: &str = "KAR_TESTS_WITHOUT_PYTHON";

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

/// As [`crate::test`], for what needs Python: visibly skipped where that is not there.
pub fn test(body: impl Future<Output = ()>) {
    test_within(crate::TEST_LIMIT, body);
}

/// As [`crate::test_within`], for what needs Python: visibly skipped where that is not there.
pub fn test_within(limit: Duration, body: impl Future<Output = ()>) {
    if std::env::var_os(ABSENT).is_some() {
        return crate::skip("Python is not there; see `cargo xtask test`");
    }
    crate::test_within(limit, body);
}

/// An interpreter that has the SDK.
///
/// # Panics
///
/// If nothing was prepared: a language that was not built is a failure, not something to pass over.
pub fn interpreter(install: Install) -> PathBuf {
    let name = match install {
        Install::Wheel => "wheel",
        Install::Source => "source",
    };
    let target = binaries::folder().parent().expect("the profile's folder lies in target");
    let path = target.join("python").join(name).join("bin/python");
    assert!(path.exists(), "{} is not there: run `cargo xtask python`", path.display());
    path
}

/// The command of one of the SDK's samples.
pub fn sample(install: Install, sample: &str) -> Vec<String> {
    script(install, &format!("samples/{sample}"))
}

/// The command of a program in the SDK's folder.
///
/// # Panics
///
/// As [`interpreter`]; and if the program is not there.
pub fn script(install: Install, path: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let script = root.join("sdk-clients/python").join(path);
    assert!(script.exists(), "{} is not there", script.display());
    let words = [interpreter(install), script];
    words.iter().map(|w| w.to_str().expect("the path is UTF-8").to_owned()).collect()
}
