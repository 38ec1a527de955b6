//! A moment of `cargo xtask soak`: every kind of load at once, under kills.

use std::time::Duration;

use kar_tests::toll::HITS_MIN;
use kar_tests::{soak, test_within};

#[test]
fn a_mixed_load_for_a_moment_under_kills() {
    test_within(Duration::from_secs(180), async {
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
        let all = ["audits", "calls", "errands", "exchanges", "reads", "relays", "starts", "tells"];
        assert_eq!(kinds, all, "{report:#?}");
        report.hits.assert("soak");
        assert!(!report.trends.is_empty(), "{report:#?}");
    });
}
