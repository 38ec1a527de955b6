//! A moment of `cargo xtask soak`: every kind of load at once, under kills.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_tests::toll::HITS_MIN;
use kar_tests::{soak, test_within};

/// Every kind of load; each has to have done something.
const ALL: [&str; 14] = [
    "audits",
    "calls",
    "cancelled",
    "errands",
    "events",
    "exchanges",
    "keyed",
    "reads",
    "relays",
    "removals",
    "rings",
    "speeches",
    "starts",
    "tells",
];

/// The load, eight times as long if kills miss, and what is kept for a time afterwards.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_mixed_load_for_a_moment_under_kills() {
    test_within(LIMIT, async {
        let report = soak::run(soak::Options {
            length: Duration::from_secs(15),
            kill_every: Duration::from_millis(400),
            sample_every: Duration::from_secs(2),
            // Far longer than a start waits to be awaited, also while everything is killed.
            retention: Duration::from_secs(60),
            hits_min: HITS_MIN,
            verbose: false,
        })
        .await;
        println!("{}", serde_json::to_string(&report).expect("plain data"));
        assert!(report.right(), "{report:#?}");
        let kinds: Vec<_> = report.finished.keys().copied().collect();
        assert_eq!(kinds, ALL, "{report:#?}");
        report.hits.assert("soak");
        // Of resident memory and of files a moment tells nothing: allocators, caches and logs fill up to their bounds
        // first, which takes minutes (`cargo xtask soak` judges them). What sidecars say that they hold tells at once.
        assert_eq!(report.left, BTreeMap::new(), "{report:#?}");
    });
}
