//! Every bound is to have a test that exceeds it: the table of them, held against the list that the program tells.
//!
//! What is checked here: that each bound which the program tells has one row, that each row has a bound, and that its
//! file has a test of that name. What nobody but a reader can check: that this test exceeds the bound, that the error
//! or notice names it, that it holds up nobody else, and so that the row's last text is true. Who adds a row shows it
//! by breaking the bound once and seeing the test fail.

mod table;

use std::collections::BTreeSet;
use std::path::Path;

use kar_hub::HubOptions;
use kar_proto::v1 as pb;
use pb::system_service_client::SystemServiceClient;

use crate::memory::TestNode;
use table::{HUB, SIDECAR};

/// A bound, or several that one test exceeds; the test, as file (from the root) and function; what it shows.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// Whether a file has a test of this name.
fn has_test(file: &str, function: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let wanted = format!("fn {function}(");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        above.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    };
    let place = |line: &&str| line.strip_prefix("async ").unwrap_or(line).starts_with(&wanted);
    lines.iter().position(place).is_some_and(is_test)
}

/// Names in the rows of a table, each once.
fn names(table: &[Row]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (limits, file, function, shows) in table {
        assert!(has_test(file, function), "{limits}: {file} has no test '{function}'");
        assert!(!shows.is_empty(), "{limits}: what does it show?");
        for limit in limits.split_whitespace() {
            assert!(names.insert(limit.to_owned()), "{limit} is in the table twice");
        }
    }
    names
}

#[track_caller]
fn assert_same(table: &[Row], told: BTreeSet<String>) {
    let named = names(table);
    let missing: Vec<_> = told.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&told).collect();
    assert!(missing.is_empty(), "no test is named that exceeds {missing:?}");
    assert!(unknown.is_empty(), "there is no such bound: {unknown:?}");
}

#[tokio::test]
async fn each_bound_of_a_sidecar_has_a_test_that_exceeds_it() {
    let node = TestNode::start().await;
    let mut system = SystemServiceClient::new(node.channel().await);
    let info = system.get_info(pb::GetInfoRequest {}).await.expect("info").into_inner();
    assert!(info.limits.len() > 90, "{:?}", info.limits);
    assert_same(SIDECAR, info.limits.into_keys().collect());
}

#[test]
fn each_bound_of_a_hub_has_a_test_that_exceeds_it() {
    // Their names, as the hub's own settings print them.
    let printed = format!("{:?}", HubOptions::new("x").limits);
    let fields = printed.split(['{', ',']).filter_map(|part| part.split_once(':'));
    let told: BTreeSet<_> = fields.map(|(name, _)| name.trim().to_owned()).collect();
    assert!(told.len() > 15, "{told:?}");
    assert_same(HUB, told);
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let here = "sidecar/tests/component/limits.rs";
    assert!(has_test(here, "a_test_that_is_not_there_is_noticed"));
    assert!(!has_test(here, "has_test"), "it is none");
    assert!(!has_test(here, "nothing"));
    assert!(!has_test("sidecar/tests/nowhere.rs", "nothing"));
}
