//! What the macros' code needs. Not part of the API.

use crate::codec::{Decode, Payload};
use crate::context::TurnContext;
use crate::error::{ApplicationError, Error};

/// What a method may return.
#[diagnostic::on_unimplemented(
    message = "a method must return `Result<T, E>`, where `E` is `kar_sdk::Error` or any error, not `{Self}`"
)]
pub trait MethodResult {
    /// What it returns if all is well.
    type Output;
    /// As the runtime wants it.
    fn into_result(self) -> Result<Self::Output, Error>;
}

impl<T, E: Into<Error>> MethodResult for Result<T, E> {
    type Output = T;

    fn into_result(self) -> Result<T, Error> {
        self.map_err(Into::into)
    }
}

/// Reads a method's argument.
pub fn argument<T: Decode>(context: &TurnContext, payload: Payload) -> Result<T, Error> {
    T::decode_argument(payload, context.event())
        .map_err(|error| ApplicationError::new("invalid_argument", error.to_string()).into())
}

/// Encodes what a method returned.
pub fn result<R>(returned: R) -> Result<Payload, Error>
where
    R: MethodResult,
    R::Output: crate::codec::Encode,
{
    use crate::codec::Encode as _;
    Ok(returned.into_result()?.encode()?)
}

/// No argument.
#[must_use]
pub fn nothing() -> Payload {
    Payload::default()
}
