//! Calls that end a turn instead of being made.

use kar_proto::v1 as proto;

use super::Call;
use crate::context::{Nested, Source};
use crate::error::{CallError, Error};

impl<R> Call<R, Nested> {
    /// Ends the turn with this call instead of making it: the invocation goes on with it, in one
    /// step with everything that the turn did, and the caller gets its outcome. Chains of any
    /// length hold one entry.
    ///
    /// ```no_run
    /// # use kar_sdk::{ActorContext, Error};
    /// # struct Walker;
    /// # #[kar_sdk::actor]
    /// # impl Walker {
    /// async fn walk(&self, ctx: &mut ActorContext, steps: u32) -> Result<String, Error> {
    ///     if steps == 0 {
    ///         return Ok("there".to_owned());
    ///     }
    ///     ctx.actor("Walker", "next").call("walk", &(steps - 1)).tail()
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Always: return it from the method, with `?` or as it is. An argument that cannot be written
    /// is an application error, and so are a tail call of a direct invocation, and one with options
    /// of its own ([`start_within`](Self::start_within), [`retry`](Self::retry),
    /// [`trace_parent`](Self::trace_parent), [`step_key`](Self::step_key)): its invocation goes on
    /// as it was made.
    pub fn tail(self) -> Result<R, Error> {
        self.tail_call(false)
    }

    /// As [`tail`](Self::tail), of an actor to itself: it stays locked until the next step has
    /// ended, so that nobody sees the state between the two. To anybody else the invocation fails
    /// with `kar.INVALID_TAIL_CALL`.
    ///
    /// # Errors
    /// As [`tail`](Self::tail).
    pub fn tail_keeping_lock(self) -> Result<R, Error> {
        self.tail_call(true)
    }

    fn tail_call(self, keep_lock: bool) -> Result<R, Error> {
        let (token, trace_parent) = match &self.origin.0 {
            Source::Root(_) => (String::new(), ""),
            Source::Turn(turn) => (turn.request_token(), turn.trace_parent.as_str()),
        };
        if self.direct || token.is_empty() {
            return Err(Error::new("tail_call", "a direct invocation cannot go on with another"));
        }
        let trace_parent = trace_parent.to_owned();
        let none = proto::InvocationOptions { trace_parent, ..Default::default() };
        if self.options != none || !self.step_key.is_empty() {
            let text =
                "a tail call has no options of its own: its invocation goes on as it was made";
            return Err(Error::new("tail_call", text));
        }
        Err(Error::tail_call(proto::TailCall {
            target: Some(proto::Target { kind: Some(self.kind) }),
            method: self.method.into_owned(),
            payload: Some(self.argument.map_err(CallError::from)?.into_proto()),
            keep_lock,
        }))
    }
}
