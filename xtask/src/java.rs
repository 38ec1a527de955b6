//! Java: the stubs, their samples and their own tests, in `sdk-clients/java`.

use std::process::Command;

use crate::plan::minutes;
use crate::step::Runner;

const FOLDER: &str = "sdk-clients/java";

/// Generates, compiles, tests and packs; tells whether the samples are there.
///
/// Every version is pinned, so that only the first build asks the registry. `clean`, because jars of other versions in
/// `target/lib` would be on the class path too.
pub(crate) fn build(runner: &mut Runner) -> bool {
    let mut maven = Command::new("mvn");
    let quiet = ["--batch-mode", "--no-transfer-progress", "-Dstyle.color=never"];
    maven.args(quiet).args(["clean", "package"]).current_dir(FOLDER);
    runner.run("java: stubs, build, tests", minutes(15), &mut maven)
}
