//! The optional bearer token.

use std::sync::Arc;

use kar_proto::v1::ErrorReason;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::convert::error;

/// Refuses whoever does not carry the token.
#[derive(Clone, Debug)]
pub struct BearerToken {
    /// The whole value of the `authorization` header; `None`: everybody may.
    expected: Option<Arc<str>>,
}

// === impl BearerToken ===

impl BearerToken {
    /// Asks for a token, if there is one.
    pub fn new(token: Option<&str>) -> Self {
        Self { expected: token.map(|token| format!("Bearer {token}").into()) }
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = &self.expected else { return Ok(request) };
        let given = request.metadata().get("authorization").map(|value| value.as_bytes());
        if given.is_some_and(|given| is_same(given, expected.as_bytes())) {
            return Ok(request);
        }
        let what = "the API token is missing or wrong: send 'authorization: Bearer TOKEN' \
                    (KAR_API_TOKEN)";
        Err(error::status(ErrorReason::WrongApiToken, what, []))
    }
}

/// Takes as long for a wrong token as for a right one of the same length.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn call(token: Option<&str>, header: Option<&str>) -> Result<(), Code> {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().expect("ASCII"));
        }
        BearerToken::new(token).call(request).map(|_| ()).map_err(|status| status.code())
    }

    #[test]
    fn only_the_right_token_passes() {
        assert_eq!(call(None, None), Ok(()));
        assert_eq!(call(Some("s3cret"), Some("Bearer s3cret")), Ok(()));
        for wrong in [None, Some("Bearer s3creT"), Some("s3cret"), Some("Bearer ")] {
            assert_eq!(call(Some("s3cret"), wrong), Err(Code::Unauthenticated), "{wrong:?}");
        }
    }
}
