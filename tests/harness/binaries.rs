//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by `cargo xtask test`, which has built everything already.
const BUILT: &str = "KAR_TESTS_BUILT";

/// Says that the programs are there already: for programs that `cargo xtask` has built together with them.
pub fn assume_built() {
    ASSUMED.store(true, Ordering::Relaxed);
}

static ASSUMED: AtomicBool = AtomicBool::new(false);

/// The folder that cargo builds this profile's programs into. Builds them first if nobody did.
///
/// # Panics
///
/// If they cannot be built.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if std::env::var_os(BUILT).is_none() && !ASSUMED.load(Ordering::Relaxed) {
            build();
        }
        // This program is PROFILE/deps/NAME, or PROFILE/NAME.
        let own = std::env::current_exe().expect("a program knows its path");
        let folder = own.parent().expect("a program lies in a folder");
        let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
        folder.expect("deps lies in the profile's folder").to_owned()
    })
}

/// The `kar` binary.
pub fn kar() -> PathBuf {
    program("kar")
}

/// The component that does what tests ask of it.
pub fn test_app() -> PathBuf {
    program("kar-test-app")
}

/// An example of the Rust SDK.
pub fn example(name: &str) -> PathBuf {
    program(&format!("examples/{name}"))
}

/// grpcurl, if the machine has it; `cargo xtask test` installs it and says where.
pub fn grpcurl() -> Option<PathBuf> {
    let named = std::env::var_os("KAR_GRPCURL").map(PathBuf::from);
    let installed = folder().parent().map(|target| target.join("tools/grpcurl"));
    named.or(installed.filter(|path| path.exists()))
}

fn program(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    path
}

/// Builds what tests start, with the same packages named as `cargo xtask test` does, so that nothing is built twice.
fn build() {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace");
    let mut command = Command::new(cargo);
    command.current_dir(root).args([
        "build",
        "--workspace",
        "--exclude",
        "kar-sim",
        "--bins",
        "--examples",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "{command:?} ended with {status}");
}
