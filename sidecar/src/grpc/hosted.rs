//! The methods of what the component beside this sidecar hosts, so that who asks for one that it does not have is told
//! before anything waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kar_core::ids::{Kind, SessionId};
use kar_proto::v1::ErrorReason;
use tonic::Status;

use crate::convert::error::status;

/// Names of methods by kind; a kind whose host does not say which ones it has is missing.
pub type Methods = BTreeMap<Kind, BTreeSet<String>>;

/// What is hosted now.
#[derive(Debug, Default)]
pub struct Hosted(Mutex<Option<(SessionId, Methods)>>);

// === impl Hosted ===

impl Hosted {
    /// A stream hosts from now on.
    pub fn begin(&self, session: SessionId, methods: Methods) {
        *self.current() = Some((session, methods));
    }

    /// It is over, if it is still the one that hosts.
    pub fn end(&self, session: SessionId) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|(of, _)| *of == session) {
            *current = None;
        }
    }

    /// Whether a method may be there.
    ///
    /// # Errors
    ///
    /// `UNKNOWN_METHOD` if the component hosts the kind, has said which methods that has, and this is none of them.
    pub fn check(&self, kind: &Kind, method: &str) -> Result<(), Status> {
        let current = self.current();
        let known = current.as_ref().and_then(|(_, methods)| methods.get(kind));
        let Some(known) = known.filter(|known| !known.contains(method)) else { return Ok(()) };
        let all: Vec<_> = known.iter().map(String::as_str).collect();
        let (name, all) = (&kind.name, all.join(", "));
        let message =
            format!("{name} has no method '{method}' where this component hosts it; it has: {all}");
        let metadata = [("method", method.to_owned()), ("target", name.to_string())];
        Err(status(ErrorReason::UnknownMethod, message, metadata))
    }

    fn current(&self) -> MutexGuard<'_, Option<(SessionId, Methods)>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_host_has_told_is_known() {
        let (hosted, ear) = (Hosted::default(), Kind::actor("Ear"));
        let methods = || [(ear.clone(), ["heard".to_owned()].into())].into();
        hosted.check(&ear, "herd").expect("nobody hosts it");
        hosted.begin(SessionId(1), methods());
        hosted.check(&ear, "heard").expect("it has it");
        hosted.check(&Kind::service("Ear"), "herd").expect("another kind");
        let wrong = hosted.check(&ear, "herd").expect_err("it does not have it");
        assert!(wrong.message().contains("it has: heard"), "{wrong:?}");
        // A stream that is over does not take away what the next one has told.
        hosted.begin(SessionId(2), methods());
        hosted.end(SessionId(1));
        hosted.check(&ear, "herd").expect_err("it is still there");
        hosted.end(SessionId(2));
        hosted.check(&ear, "herd").expect("nobody hosts it");
    }
}
