//! Snapshots: who takes over reads little, whatever was done before; and what cannot be trusted is not used.

mod script;

use kar_core::effect::Notice;
use kar_core::ids::Kind;
use kar_core::invocation::Mode;
use kar_core::limits::Limits;
use kar_core::snapshot::{Snapshot, SnapshotKey};

use script::{Script, done};

/// Long enough for a take-over, and for a partition that rests to be looked at again.
const RECOVERED_MS: u64 = 12_000;

const KINDS: [&str; 1] = ["Account"];

fn kinds() -> Vec<Kind> {
    KINDS.iter().map(|name| Kind::actor(name)).collect()
}

/// A snapshot after each few records.
fn saving() -> Script {
    Script::with(&kinds(), Limits { snapshot_after_records: 4, ..Limits::default() })
}

/// A turn of the one actor that sets a key, done and materialised.
fn write(script: &mut Script, key: &str, value: &str) {
    let call = script.invoke(None, Mode::Call, "alice", "set");
    let turn = script.turn("set");
    script.set(&turn, key, value);
    script.finish(&turn, done(""));
    script.outcome(call);
}

fn write_many(script: &mut Script, count: usize) {
    for n in 0..count {
        write(script, "n", &n.to_string());
    }
}

/// What the next owner's turn reads.
fn read(script: &mut Script) -> String {
    script.advance(RECOVERED_MS);
    let call = script.invoke(None, Mode::Call, "alice", "get");
    let turn = script.turn("get");
    let state = script.read(&turn).expect("answered");
    let found = String::from_utf8_lossy(&state["n"].data).into_owned();
    script.finish(&turn, done(""));
    script.outcome(call);
    found
}

fn count(script: &Script, wanted: fn(&Notice) -> bool) -> usize {
    script.notices.iter().filter(|notice| wanted(notice)).count()
}

fn is_unreadable(notice: &Notice) -> bool {
    matches!(notice, Notice::Unreadable { .. })
}

fn is_used(notice: &Notice) -> bool {
    matches!(notice, Notice::SnapshotUsed { .. })
}

#[test]
fn who_takes_over_reads_what_came_after_the_newest_snapshot() {
    let mut script = saving();
    write_many(&mut script, 100);
    assert!(count(&script, |n| matches!(n, Notice::SnapshotTaken { .. })) > 10);
    assert_eq!(script.snapshots.len(), 2, "the newest, and the one before");
    let start = script.starts.values().copied().max().expect("it was trimmed");
    assert!(start > 80, "{start}");
    script.records_read = 0;
    script.replace(&kinds());
    assert_eq!(read(&mut script), "99");
    assert!(script.records_read < 20, "{} records read", script.records_read);
    assert!(count(&script, is_used) > 0);
    // It goes on.
    write_many(&mut script, 20);
    script.replace(&kinds());
    assert_eq!(read(&mut script), "19");
}

#[test]
fn long_records_call_for_a_snapshot_sooner() {
    let limits = Limits { snapshot_after_bytes: 40_000, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let taken = |script: &Script| count(script, |n| matches!(n, Notice::SnapshotTaken { .. }));
    write_many(&mut script, 20);
    assert_eq!(taken(&script), 0);
    for _ in 0..60 {
        write(&mut script, "n", &"n".repeat(2_000));
    }
    assert!((3..=10).contains(&taken(&script)), "{}", taken(&script));
}

#[test]
fn a_lost_or_damaged_snapshot_is_made_good_by_the_one_before() {
    for damage in [false, true] {
        let mut script = saving();
        write_many(&mut script, 50);
        let newest = script.snapshots.last_key_value().expect("there are some").0.clone();
        match script.snapshots.get_mut(&newest) {
            Some(snapshot) if damage => snapshot.order += 1,
            _ => drop(script.snapshots.remove(&newest)),
        }
        script.replace(&kinds());
        assert_eq!(read(&mut script), "49");
        let unusable = count(&script, |n| matches!(n, Notice::SnapshotUnusable { .. }));
        assert_eq!((unusable, count(&script, is_unreadable)), (usize::from(damage), 0));
    }
}

#[test]
fn without_any_snapshot_a_trimmed_log_is_not_served_until_they_are_back() {
    let mut script = saving();
    write_many(&mut script, 50);
    let saved = std::mem::take(&mut script.snapshots);
    script.replace(&kinds());
    script.advance(RECOVERED_MS);
    assert!(count(&script, is_unreadable) > 0);
    let served = |script: &Script| script.node.partitions().len();
    let trimmed = script.starts.values().filter(|start| **start > 1).count();
    assert_eq!(served(&script) + trimmed, 2);
    // A snapshot of something else is none.
    let (key, mut other) =
        saved.last_key_value().map(|(k, s)| (k.clone(), s.clone())).expect("there are some");
    other.offset -= 1;
    script.snapshots.insert(key, other);
    script.advance(RECOVERED_MS);
    assert!(count(&script, |n| matches!(n, Notice::SnapshotUnusable { .. })) > 0);
    script.snapshots = saved;
    assert_eq!(read(&mut script), "49");
}

#[test]
fn a_store_that_is_older_than_the_log_is_refused() {
    let mut script = saving();
    write_many(&mut script, 10);
    let old = (script.store.clone(), script.cells.clone());
    write_many(&mut script, 50);
    let now = (script.store.clone(), script.cells.clone());
    (script.store, script.cells) = old;
    script.replace(&kinds());
    script.advance(RECOVERED_MS);
    let refused = |n: &Notice| matches!(n, Notice::Unreadable { why, .. } if why.contains("store"));
    assert!(count(&script, refused) > 0, "{:?}", script.notices);
    (script.store, script.cells) = now;
    assert_eq!(read(&mut script), "49");
}

/// A write each second: every record stays for the delay, and not much longer than that.
#[test]
fn nothing_is_trimmed_before_the_delay_and_what_is_dispensable_after_it() {
    const DELAY_S: usize = 60;
    let trim_delay_ms = 1_000 * DELAY_S as u64;
    let limits = Limits { snapshot_after_records: 4, trim_delay_ms, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let longest =
        |script: &Script| script.logs.values().map(Vec::len).max().expect("one is served");
    // The log's length before each second.
    let mut lengths = Vec::new();
    for second in 0..4 * DELAY_S {
        lengths.push(longest(&script));
        write(&mut script, "n", &second.to_string());
        script.advance(1_000);
        let start = script.starts.values().copied().max().unwrap_or(1) as usize;
        if second < DELAY_S {
            assert!(start == 1, "trimmed to {start} after {second} s");
            continue;
        }
        // Nothing younger than the delay goes. A quarter of it lies between two snapshots that are kept, and a few
        // writes between two that are taken.
        let youngest = lengths[second + 1 - DELAY_S];
        let oldest = lengths[(second - DELAY_S).saturating_sub(DELAY_S / 4 + 4)];
        assert!((oldest..=youngest).contains(&start), "trimmed to {start} after {second} s");
    }
    let taken = count(&script, |n| matches!(n, Notice::SnapshotTaken { .. }));
    assert!(taken > DELAY_S, "{taken}");
    script.replace(&kinds());
    assert_eq!(read(&mut script), (4 * DELAY_S - 1).to_string());
}

#[test]
fn with_a_delay_the_log_heals_a_store_that_went_back() {
    let limits = Limits { snapshot_after_records: 4, trim_delay_ms: 60_000, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    write_many(&mut script, 10);
    let old = (script.store.clone(), script.cells.clone());
    write_many(&mut script, 50);
    (script.store, script.cells) = old;
    script.replace(&kinds());
    assert_eq!(read(&mut script), "49");
    assert_eq!(count(&script, is_unreadable), 0);
}

/// A reign that ended between storing a snapshot and naming it, or that was over when it stored one, leaves an orphan:
/// it is never begun with, and it goes with the next reign, though the partition may rest in it.
#[test]
fn orphans_are_removed_when_the_next_reign_begins() {
    let mut script = saving();
    write_many(&mut script, 50);
    let (newest, snapshot) = script.snapshots.last_key_value().expect("there are some");
    let ((partition, key), snapshot) = (newest.clone(), snapshot.clone());
    // One of a place before those that are named, by a reign that is over, and one behind them that was not named yet.
    let places = [key.position - 20, key.position + 1];
    for position in places {
        let key = SnapshotKey { position, epoch: key.epoch };
        let orphan = Snapshot { offset: position, ..snapshot.clone() };
        script.snapshots.insert((partition.clone(), key), orphan);
    }
    script.replace(&kinds());
    script.advance(RECOVERED_MS);
    let positions: Vec<_> = script.snapshots.keys().map(|(_, key)| key.position).collect();
    assert_eq!(positions.len(), 2, "the newest, and the one before: {positions:?}");
    assert!(!positions.iter().any(|position| places.contains(position)), "{positions:?}");
    assert_eq!(read(&mut script), "49", "as the log says");
}

/// Each one is a copy of the whole state: what is refused is not tried again and again.
#[test]
fn what_cannot_be_stored_is_tried_less_and_less_often() {
    let mut script = saving();
    script.refuse_snapshots = true;
    write_many(&mut script, 600);
    let tried = script.snapshots_put;
    assert!((4..20).contains(&tried), "{tried} times");
    assert_eq!(count(&script, |n| matches!(n, Notice::SnapshotFailed { .. })), tried);
    script.refuse_snapshots = false;
    write_many(&mut script, 100);
    assert!(script.snapshots_put > tried + 4, "as often as before");
    script.replace(&kinds());
    assert_eq!(read(&mut script), "99");
}
