//! Small file systems of a test's own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// Bytes that a filler is written in, so that nothing is left that could hold anything: a page.
const FILLER_BYTES: usize = 4096;

/// A file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// `None`, and a line that says so, if this user may not mount.
    ///
    /// # Panics
    ///
    /// If there is no place for the folder that it is mounted on.
    pub fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("a folder");
        if run("mount", &["-t", "tmpfs", "-o", options, "kar-test"], at) {
            return Some(Self(at.to_owned()));
        }
        skip("mounting a file system needs root (and mount(8))");
        None
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
