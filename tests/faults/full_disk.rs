//! The hub's disk gets full under load, and has room again: clients are told so by typed errors, nobody loses anything,
//! and the load goes on by itself.

use std::time::{Duration, Instant};

use kar_tests::mount::Mount;
use kar_tests::toll::HITS_MIN;
use kar_tests::{Random, World, test_within, wait};

use crate::bank::{self, Plan};

/// Times that the disk gets full.
const ROUNDS: usize = 24;

/// Transfers, all in all.
const TRANSFERS: usize = 800;

/// Bytes that each transfer carries for nothing, so that the log grows quickly, too.
const PADDING_BYTES: usize = 16 << 10;

/// Longest time from the transfer that is due until the disk is full, and then until it has room again, ms.
const PAUSE_MAX_MS: u64 = 150;
const FULL_MAX_MS: u64 = 1_500;

/// Longest time that the disk stays full because the hub has not noticed.
const FULL_LIMIT: Duration = Duration::from_secs(2);

/// What clients may be told while the disk is full. Some of their calls may have been carried out.
const EXCUSES: &[&str] = &["BACKEND_UNAVAILABLE", "OUTCOME_UNKNOWN"];

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_bank_stays_balanced_when_the_disk_gets_full_20_times() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("full disk");
        let world = World::new("nospace");
        world.journal_turns();
        let options = "size=192m,mode=700";
        let Some(mount) = Mount::tmpfs(&world.data_dir(), options) else { return };
        let plan = Plan {
            transfers: TRANSFERS,
            strikes: ROUNDS,
            padding: PADDING_BYTES,
            excuses: EXCUSES,
        };
        let (mut stood_still, mut met, mut told) = (0, 0, 0);
        bank::run(&world, plan, &mut random, async |bank, random| {
            wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
            mount.fill();
            wait::moment(Duration::from_millis(random.below(FULL_MAX_MS / 3))).await;
            let (begun, finished) = (Instant::now(), bank.finished());
            wait::moment(Duration::from_millis(random.below(FULL_MAX_MS))).await;
            // Where the hub has room in the file that it writes, it is left full until it needs another one. It says so
            // once, and not again as long as it cannot begin.
            let before = told;
            wait::until_true("the hub to meet it", LIMIT, async || {
                let log = bank.world.logs().remove("hub.log").unwrap_or_default().to_lowercase();
                told = log.matches("no space left").count();
                told > before || begun.elapsed() > FULL_LIMIT
            })
            .await;
            let stands_still = begun.elapsed() > FULL_LIMIT && bank.finished() == finished;
            stood_still += usize::from(stands_still);
            met += usize::from(told > before || stands_still);
            mount.free();
        })
        .await;
        println!(
            "{ROUNDS} times full; the hub met it {met} times; {stood_still} times all stood still"
        );
        assert!(met >= HITS_MIN, "only {met} of {ROUNDS} times was the disk full for the hub");
    });
}
