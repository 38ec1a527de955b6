//! Small file systems of a test's own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes that a filler is written in, so that nothing is left that could hold anything: a page.
const FILLER_BYTES: usize = 4096;

/// A file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts one.
    ///
    /// # Panics
    ///
    /// If this user may not mount: a test of a disk that gets full shows nothing without one, so it is not passed over.
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).expect("a folder");
        assert!(
            run("mount", &["-t", "tmpfs", "-o", options, "kar-test"], at),
            "this test mounts a file system, which needs root and mount(8): run it as root; see `cargo xtask test`"
        );
        Self(at.to_owned())
    }

    /// Changes its options.
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub fn remount(&self, options: &str) {
        assert!(run("mount", &["-o", &format!("remount,{options}")], &self.0), "remount");
    }

    /// Takes every byte that is left.
    ///
    /// # Panics
    ///
    /// If the disk fails in another way than by being full.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file can be made");
        let page = [0x66; FILLER_BYTES];
        loop {
            match filler.write_all(&page) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives back what [`Mount::fill`] took.
    ///
    /// # Panics
    ///
    /// If it took nothing.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.0);
    }
}

fn run(program: &str, args: &[&str], at: &Path) -> bool {
    Command::new(program).args(args).arg(at).status().is_ok_and(|status| status.success())
}
