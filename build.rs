//! Compiles every `.proto` file under `proto/` with protox (pure Rust, nothing to install) into `OUT_DIR`, and writes
//! the descriptor set that reflection serves.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

/// Fields that live in a box of their own: they are seldom set, or far larger than what their message carries most of
/// the time. A frame is moved some ten times between its socket and the core, all of it, whatever it holds: these take
/// about half off the bytes that a call moves in memory.
const BOXED: [&str; 8] = [
    ".kar.log.v1.Complete.end.next",
    ".kar.log.v1.Invocation.event",
    ".kar.log.v1.Op.op.subscription",
    ".kar.peer.v1.PeerFrame.frame.request",
    ".kar.peer.v1.Request.owed.subscription",
    ".kar.v1.ComponentFrame.frame.request",
    ".kar.v1.InvocationFrame.event",
    ".kar.v1.SidecarFrame.frame.invocation",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = Vec::new();
    collect(Path::new("proto"), &mut files)?;
    files.sort();
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?
        .file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("kar_descriptor.bin"), descriptors.encode_to_vec())?;
    // A package that is external for ours (their code names it by an absolute path) is not generated with them.
    let mut google = descriptors.clone();
    google.file.retain(|file| file.package().starts_with("google."));
    tonic_prost_build::configure().build_transport(false).compile_fds(google)?;
    let mut ours = tonic_prost_build::configure().bytes(".kar");
    for field in BOXED {
        ours = ours.boxed(field);
    }
    ours.build_transport(false)
        .codec_path("crate::codec::SizedCodec")
        .extern_path(".google.rpc", "crate::google::rpc")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Finds the proto files below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
