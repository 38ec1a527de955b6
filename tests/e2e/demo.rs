//! The README's first command, for a few seconds: what it promises is what it prints.

use kar_tests::{World, test};

/// Of the first nine victims of this seed three are sidecars, three components, and three the hub.
const SEED: &str = "10";

/// The numbers in a text, in order.
fn numbers(text: &str) -> Vec<f64> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    words.filter_map(|word| word.trim_end_matches('.').parse().ok()).collect()
}

#[test]
fn the_books_of_the_demonstration_balance() {
    test(async {
        let world = World::new("demo");
        let demo = ["demo", "--seconds", "4", "--kills-per-second", "3", "--seed", SEED];
        let output = world.kar(&demo).await;
        assert_eq!(output.code, 0, "{output:?}");
        let figures = |name: &str| {
            let line = output.stdout.lines().find_map(|line| line.trim_start().strip_prefix(name));
            numbers(line.unwrap_or_else(|| panic!("it does not say '{name}': {output:?}")))
        };
        assert_eq!((figures("lost"), figures("repeated")), (vec![0.0], vec![0.0]), "{output:?}");
        assert_eq!((figures("torn"), figures("errors, unknown")), (vec![0.0], vec![0.0, 0.0]));
        assert_eq!(figures("money before"), figures("money after"));
        let done = figures("transfers ")[0];
        assert!(done > 0.0, "{output:?}");
        let [calls, transfers] = figures("durable calls/s")[..] else { panic!("{output:?}") };
        assert!(calls > 0.0 && transfers > 0.0 && calls > transfers, "{output:?}");
        // All kinds of processes died, or it has shown less than it says.
        let [all, sidecars, components, hubs] = figures("kills survived")[..] else {
            panic!("{output:?}")
        };
        assert!(sidecars > 0.0 && components > 0.0 && hubs > 0.0, "{output:?}");
        assert_eq!(all, sidecars + components + hubs, "{output:?}");
        let times = figures("transfer   ");
        // The "99" is the name of a figure.
        let [median, _, p99, slowest] = times[..] else { panic!("{output:?}") };
        assert!(0.0 < median && median <= p99 && p99 <= slowest.ceil(), "{output:?}");
        assert!(output.stdout.contains("The books balance"), "{output:?}");
        progress(&output.stderr, done, all);
    });
}

/// Who watches sees that it goes on, and how much died meanwhile.
fn progress(shown: &str, done: f64, killed: f64) {
    let lines: Vec<Vec<f64>> =
        shown.lines().filter(|line| line.contains(" transfers · ")).map(numbers).collect();
    assert!(!lines.is_empty(), "no progress was shown: {shown}");
    for line in &lines {
        let [seconds, transfers, _, all, sidecars, components, hubs, slowest] = line[..] else {
            panic!("{line:?}: {shown}")
        };
        assert!(seconds > 0.0 && transfers > 0.0 && slowest > 0.0, "{line:?}");
        assert!(all > 0.0 && all <= killed && all == sidecars + components + hubs, "{line:?}");
    }
    let first = &lines[0];
    assert!(first[1] <= done && first[2] > 0.0, "{first:?} of {done}");
}
