//! A hub as a process, for the tests of this crate: `hub DATA_DIR [os] [idle-ms=N] [segment=N]
//! [segments=N] [grace-ms=N] [silence-ms=N] [compaction-rate=N] [snapshot-bytes=N] [snapshots=N]
//! [topics=N] [topic-partitions=N] [consumers=N] [channels=N]`.

use std::process::ExitCode;
use std::time::Duration;

use kar_hub::{Durability, HubOptions, run_hub};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: hub DATA_DIR [OPTION…]");
    let mut options = HubOptions::new(dir);
    for arg in args {
        let (name, number) = arg.split_once('=').unwrap_or((&arg, "0"));
        let number: u64 = number.parse().expect("a number after '='");
        match name {
            "os" => options.durability = Durability::Os,
            "idle-ms" => options.idle_exit = Some(Duration::from_millis(number)),
            "segment" => options.limits.first_segment_bytes = number,
            "grace-ms" => options.limits.grace = Duration::from_millis(number),
            "silence-ms" => options.limits.silence = Duration::from_millis(number),
            "segments" => options.limits.segment_bytes = number,
            "compaction-rate" => options.limits.compaction_bytes_per_second = number,
            "snapshot-bytes" => options.limits.snapshot_bytes_max = number,
            "snapshots" => options.limits.snapshots_max = number as usize,
            "topics" => options.limits.topics_max = number as usize,
            "topic-partitions" => options.limits.topic_partitions_max = number as usize,
            "channels" => options.limits.topic_channels_max = number as usize,
            "consumers" => options.limits.consumers_max = number as usize,
            other => panic!("unknown option {other}"),
        }
    }
    match run_hub(options) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
