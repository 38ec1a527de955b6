//! What random runs never come to.

/// What random runs never come to, and why.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("notice: broken invariant", ALARM),
    ("notice: kind refused", KINDS),
    ("answer: kind refused", KINDS),
    ("notice: dropped: a call retired", ALARM),
    ("notice: record too long", BYTES),
    ("notice: dropped: too long a record", BYTES),
    ("notice: snapshot unusable", "snapshots of other logs: core/tests/snapshots.rs"),
    ("notice: dropped: the log was trimmed", "once in 10,000 seeds: a zombie reads its log anew"),
    ("notice: reading waits", "topics that stay away for seconds: core/tests/subscriptions.rs"),
    ("notice: store ahead", "a store of another log: core/tests/store.rs"),
    ("store: ahead of the log", "a store of another log: core/tests/store.rs"),
    ("answer: turn ended", "a program that goes on after it returned: core/tests/takeover.rs"),
    ("answer: invalid", "a program that asks for what makes no sense"),
    ("answer: limit: state read", READS),
    ("answer: unavailable", READS),
    ("sent: inspect", VIEWS),
    ("arrived: inspect", VIEWS),
    ("sent: inspected", VIEWS),
    ("arrived: inspected", VIEWS),
    ("view: a node is asked again", VIEWS),
    ("answer: view", VIEWS),
    ("answer: unknown kind", "a typing mistake: core/tests/life.rs"),
    ("sent: read: too long", READS),
    ("arrived: read: too long", READS),
    ("channel: a request after a gap", GAP),
    ("route: opened again after a gap", GAP),
    ("sent: gap", GAP),
    ("arrived: gap", GAP),
    ("channel: a request after closed numbers", "a sender closes only what its receiver has known"),
    ("log: an append of an earlier reign is read back", READING),
    ("log: an own record of an earlier reign, while serving", READING),
    ("actor: calls of a flow that has ended queue up first", "T1: a flow ends after its calls"),
    ("actor: queued calls of a flow that holds it again pass the queue", "kept locks are restored"),
    ("reply: its caller has ended", "T1: what ends settles its calls"),
    (
        "answer: channel closed",
        "asked between being given up and joining anew: core/tests/incarnation.rs",
    ),
    ("tail: keeps a lock that it does not have", "a program that asks for what makes no sense"),
    (
        "tail: an outcome comes home to nobody",
        "its home ends only by it, so a peer that is wrong: core/tests/tail.rs",
    ),
    ("notice: unreadable", "an alarm: trimmed, and no snapshot is left: core/tests/snapshots.rs"),
    (
        "inbox: the own one was trimmed while it was read",
        "nodes that share one, sixteen incarnations apart: core/tests/inbox.rs",
    ),
    (
        "publishing: a topic has taken nothing of what was sent",
        "a bus that refuses: core/tests/publish.rs",
    ),
    (
        "direct: no answer through an inbox",
        "a few in 20,000 seeds, by an answer that is lost: core/tests/inbox.rs",
    ),
    ("void: forget keys", "keys are forgotten when faults are over"),
    ("gone: an open call, the log is asked", DOUBT),
    ("gone: the log has settled it", DOUBT),
    ("answer: schedule", "a schedule that makes no sense: core/tests/refusals.rs"),
    ("answer: no subscription", "settings that make no sense: core/tests/subscriptions.rs"),
    ("refused: too deep", "no owner makes it: answer: limit: depth"),
    ("refused: key reused", "a client that gives two things one key: core/tests/keys.rs"),
    ("refused: keys", "no run has so many keys: core/tests/keys.rs"),
    ("refused: subscription differs", "told as an error of its own: answer: subscription differs"),
    ("refused: subscription unknown", "told as an error of its own: answer: unknown subscription"),
    ("refused: subscriptions", "no run has so many: core/tests/refusals.rs"),
    ("refused: bytes of subscriptions", "no run has so many: core/tests/refusals.rs"),
    ("refused: channel closed", "no owner makes it: answer: channel closed"),
];

const ALARM: &str = "an alarm: every run that has one is a violation";
const BYTES: &str = "an alarm of bounds that do not go together: core/tests/bytes.rs";
const KINDS: &str = "no run has more kinds than the membership takes: core/tests/kinds.rs";
const READS: &str = "bounds and times of reads that no run comes near: core/tests/single_node.rs";
const VIEWS: &str = "listings, which change nothing: core/tests/inbox.rs";
const GAP: &str = "routes are FIFO: the hunt of channel-gap loses requests";
const READING: &str = "a new reading shows what was appended before it as everybody's";
const DOUBT: &str =
    "a few in 20,000 seeds: a reign that is over learns it by its log first: core/tests/doubts.rs";

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason that names a test names one that there is.
    #[test]
    fn tests_that_are_named_exist() {
        let core = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (name, why) in ELSEWHERE {
            let named = why.split_whitespace().filter(|word| word.starts_with("core/tests/"));
            for file in named {
                assert!(core.join(file).exists(), "{name}: there is no {file}");
            }
        }
    }
}
