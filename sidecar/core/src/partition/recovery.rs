//! How a log is read: from the newest snapshot that the log names, or from its start.
//!
//! ```text
//! Listing --(keys)--> Getting --(it)--> Loaded --(the store's cell)--> the log is read from there
//!    |                  |                 |                              |
//!    |                  +--(not there, damaged, another's; the store is behind it; the log does not name it)
//!    |                  v
//!    +--(none left)--> the log is read from its start --(that was trimmed)--> Resting --(time)--> Listing
//! ```
//!
//! A snapshot is believed when the log names it, with its checksum, after the place that it stands for; the newest one
//! mostly does, so that nothing else is read. Nobody reads a log by a snapshot that the store is behind: operations up
//! to there would be in neither.

use super::{Partition, Stage};
use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::ids::{Millis, Offset};
use crate::snapshot::{Snapshot, SnapshotFault, SnapshotKey, SnapshotProof};
use crate::state::LogState;

use super::reign::Reign;

/// Looks at the list of snapshots in vain, one after the other, before the partition rests: they change while they
/// are looked at.
const LOOKS_MAX: u8 = 3;

/// How a partition finds out where to read its log from.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// The keys are asked for.
    Listing,
    /// A snapshot is asked for.
    Getting { key: SnapshotKey },
    /// It is here; the store has not said yet how far it is.
    Loaded { key: SnapshotKey, snapshot: Box<Snapshot>, proof: SnapshotProof },
    /// Nothing tells the state of the partition: it looks again at this time.
    Resting { until: Millis },
}

/// What is known of the snapshots of a partition while its log is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Recovery {
    /// Absent while the log is read.
    pub(super) finding: Option<Finding>,
    /// Older ones, the newest last.
    rest: Vec<SnapshotKey>,
    /// The one that the reading began with, until the log has named it.
    base: Option<(SnapshotKey, SnapshotProof)>,
    /// Times that the list was looked at in vain.
    looks: u8,
    /// Why the last one was not used.
    why: &'static str,
}

/// How long a partition rests when nobody could say what snapshots there are, ms; a hub that comes back ends that.
const AWAY_PAUSE_MS: Millis = 500;

const MISSING: &str = "it is not there";
const BEHIND: &str = "the store of actors' states is older than it; put a newer store back";
const TRIMMED: &str = "the log goes on later";
const NONE: &str = "there is none";

impl Partition {
    /// Forgets everything but what the snapshots and the log tell, and begins with the newest snapshot.
    pub(super) fn find_snapshot(&mut self, env: &mut Env) {
        // Nothing that is still under way from an old reading is to be taken for the new one.
        env.emit(Effect::StopLog { partition: self.id.clone() });
        // What the store has need not be kept while the log is read.
        env.emit(Effect::ReadCell { partition: self.id.clone() });
        self.at_end = false;
        self.recovery.why = NONE;
        self.recovery.base = None;
        self.recovery.finding = Some(Finding::Listing);
        env.emit(Effect::ListSnapshots { partition: self.id.clone() });
    }

    /// The keys of the snapshots.
    pub(crate) fn snapshots_listed(
        &mut self,
        env: &mut Env,
        result: Result<Vec<SnapshotKey>, SnapshotFault>,
    ) {
        if self.serving() {
            return self.snapshots_checked(env, result);
        }
        let Some(Finding::Listing) = self.recovery.finding else { return };
        match result {
            Ok(mut keys) => {
                keys.sort_unstable();
                self.stored.clone_from(&keys.iter().copied().collect());
                self.recovery.rest = keys;
                self.next_snapshot(env);
            }
            Err(fault) => {
                self.snapshot_failed(env, None, fault);
                self.look_later(env, AWAY_PAUSE_MS);
            }
        }
    }

    /// Tries the newest snapshot that was not tried, or the log alone.
    fn next_snapshot(&mut self, env: &mut Env) {
        let (partition, key) = (self.id.clone(), self.recovery.rest.pop());
        self.state = LogState::default();
        self.reign =
            Reign { cell: self.reign.cell, cell_known: self.reign.cell_known, ..Reign::default() };
        self.unsaved = super::snapshots::Unsaved::default();
        if let Some(key) = key {
            self.recovery.finding = Some(Finding::Getting { key });
            env.emit(Effect::GetSnapshot { partition, key });
        } else {
            self.recovery.finding = None;
            self.read_log(env, 1);
        }
    }

    /// A snapshot is here, or not.
    pub(crate) fn snapshot_got(
        &mut self,
        env: &mut Env,
        key: SnapshotKey,
        result: Result<Option<(Box<Snapshot>, SnapshotProof)>, SnapshotFault>,
    ) {
        match &self.recovery.finding {
            Some(Finding::Getting { key: wanted }) if *wanted == key => {}
            _ => return,
        }
        match result {
            Ok(Some((snapshot, proof))) if snapshot.fits(&self.id, key) => {
                self.recovery.finding = Some(Finding::Loaded { key, snapshot, proof });
                self.use_snapshot(env);
            }
            Ok(Some(_)) => self.not_usable(env, key, "it is another partition's, or place's"),
            Ok(None) => {
                // Its owner has named newer ones and deleted it, mostly.
                env.cover(Transition::SnapshotMissing);
                self.recovery.why = MISSING;
                self.next_snapshot(env);
            }
            Err(SnapshotFault::Unavailable(text)) => {
                self.snapshot_failed(env, Some(key), SnapshotFault::Unavailable(text));
                self.look_later(env, AWAY_PAUSE_MS);
            }
            Err(fault) => {
                env.cover(Transition::SnapshotDamaged);
                self.snapshot_failed(env, Some(key), fault);
                self.recovery.why = "it is damaged";
                self.next_snapshot(env);
            }
        }
    }

    fn not_usable(&mut self, env: &mut Env, key: SnapshotKey, why: &'static str) {
        env.notice(Notice::SnapshotUnusable { partition: self.id.clone(), key, why });
        self.recovery.why = why;
        self.next_snapshot(env);
    }

    /// Begins with the snapshot that is here, once it is known that the store is not behind it.
    pub(super) fn use_snapshot(&mut self, env: &mut Env) {
        if !self.reign.cell_known {
            return;
        }
        let Some(Finding::Loaded { .. }) = self.recovery.finding else { return };
        let Some(Finding::Loaded { key, snapshot, proof }) = self.recovery.finding.take() else {
            return;
        };
        if snapshot.last_write > self.reign.cell.offset {
            env.cover(Transition::SnapshotBeforeStore);
            self.recovery.why = BEHIND;
            return self.next_snapshot(env);
        }
        env.cover(Transition::SnapshotBegins);
        self.recovery.base = Some((key, proof));
        self.state = LogState::restore(*snapshot);
        self.read_log(env, self.state.offset + 1);
    }

    /// The log has been read to its end: tells whether it names the snapshot that the reading began with. If not,
    /// another one is tried.
    pub(super) fn confirm_snapshot(&mut self, env: &mut Env) -> bool {
        let Some((key, proof)) = self.recovery.base.take() else { return true };
        let named = self.state.snapshots.iter().find(|named| named.key == key);
        match named {
            Some(named) if named.proof == proof => {
                self.recovery.looks = 0;
                self.recovery.why = NONE;
                let (partition, records) = (self.id.clone(), self.unsaved.records);
                env.notice(Notice::SnapshotUsed { partition, key, records });
                return true;
            }
            Some(_) => {
                env.emit(Effect::StopLog { partition: self.id.clone() });
                self.not_usable(env, key, "the log names another one under its key");
            }
            None => {
                // Its owner ended before the log could name it.
                env.cover(Transition::SnapshotUnnamed);
                env.emit(Effect::StopLog { partition: self.id.clone() });
                self.recovery.why = "the log does not name it";
                self.next_snapshot(env);
            }
        }
        false
    }

    /// What is to be read next was trimmed.
    pub(crate) fn log_trimmed(&mut self, env: &mut Env, start: Offset) {
        match self.stage {
            Stage::Off => {}
            Stage::Reading if self.recovery.finding.is_some() => {}
            Stage::Reading => {
                if self.recovery.base.is_some() {
                    self.recovery.why = TRIMMED;
                }
                self.recovery.looks += 1;
                if self.recovery.looks < LOOKS_MAX {
                    // There are newer ones by now.
                    env.cover(Transition::TrimmedReading);
                    return self.read_anew(env);
                }
                let (partition, why) = (self.id.clone(), self.recovery.why);
                env.notice(Notice::Unreadable { partition, start, why });
                self.look_later(env, env.limits.append_timeout_ms);
            }
            Stage::Claiming => self.read_anew(env),
            Stage::Serving => {
                // Only a later reign has snapshots of what this one has not read.
                self.drop_all(env, "another reign has trimmed the log", (0, None));
            }
        }
    }

    fn look_later(&mut self, env: &mut Env, pause: Millis) {
        env.emit(Effect::StopLog { partition: self.id.clone() });
        self.recovery.looks = 0;
        self.recovery.base = None;
        let until = env.now + pause;
        self.recovery.finding = Some(Finding::Resting { until });
    }

    /// Looks again if it is time.
    pub(super) fn tick_recovery(&mut self, env: &mut Env) {
        if let Some(Finding::Resting { until }) = self.recovery.finding
            && until <= env.now
        {
            env.cover(Transition::SnapshotsAgain);
            self.read_anew(env);
        }
    }

    /// When it is to look again.
    pub(super) fn recovery_timeout(&self) -> Option<Millis> {
        match self.recovery.finding {
            Some(Finding::Resting { until }) => Some(until),
            _ => None,
        }
    }

    /// What was asked about snapshots is lost.
    pub(super) fn find_again(&mut self, env: &mut Env) {
        let partition = self.id.clone();
        match &self.recovery.finding {
            Some(Finding::Listing) => env.emit(Effect::ListSnapshots { partition }),
            Some(Finding::Getting { key }) => {
                env.emit(Effect::GetSnapshot { partition, key: *key });
            }
            Some(Finding::Resting { .. }) => self.read_anew(env),
            Some(Finding::Loaded { .. }) | None => {}
        }
    }

    pub(super) fn snapshot_failed(
        &mut self,
        env: &mut Env,
        key: Option<SnapshotKey>,
        fault: SnapshotFault,
    ) {
        env.notice(Notice::SnapshotFailed { partition: self.id.clone(), key, fault });
    }
}
