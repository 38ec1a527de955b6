//! The README's first command, for a few seconds: what it promises is what it prints.

use kar_tests::{World, test};

#[test]
fn the_books_of_the_demonstration_balance() {
    test(async {
        let world = World::new("demo");
        let demo = ["demo", "--seconds", "4", "--kills-per-second", "3"];
        let output = world.kar(&demo).await;
        assert_eq!(output.code, 0, "{output:?}");
        let figure = |name: &str| {
            let line = output.stdout.lines().find(|line| line.trim_start().starts_with(name));
            let line = line.unwrap_or_else(|| panic!("it does not say '{name}': {output:?}"));
            let words = line.trim_start()[name.len()..].split_whitespace();
            let number = words.map(|w| w.trim_end_matches(',')).find_map(|w| w.parse::<i64>().ok());
            number.unwrap_or_else(|| panic!("no number: {line}"))
        };
        assert_eq!((figure("lost"), figure("repeated"), figure("torn")), (0, 0, 0));
        assert_eq!(figure("errors, unknown"), 0, "{output:?}");
        assert_eq!(figure("money before"), figure("money after"));
        assert!(figure("transfers") > 0 && figure("kills survived") > 0, "{output:?}");
        assert!(output.stdout.contains("The books balance"), "{output:?}");
    });
}
