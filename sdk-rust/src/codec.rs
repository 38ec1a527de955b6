//! Typed payloads: JSON through serde by default, protobuf by choice, raw bytes for everything
//! else.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use kar_proto::v1 as proto;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Content type of payloads that serde wrote.
pub const JSON: &str = "application/json";

/// Content type of payloads that prost wrote.
pub const PROTOBUF: &str = "application/protobuf";

/// Application bytes with their type. Used as an argument or a result it passes through as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payload {
    /// The bytes.
    pub data: Bytes,
    /// MIME type; empty if the parties know. At most 256 bytes.
    pub content_type: Cow<'static, str>,
}

/// Wraps a protobuf message as an argument or a result: `Prost(message)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prost<M>(pub M);

/// What can be sent: everything that serde can serialise, [`Prost`], and [`Payload`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel as a KAR payload",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, or wrap a protobuf message in `kar_sdk::Prost`"
)]
pub trait Encode {
    /// Turns the value into bytes.
    ///
    /// # Errors
    /// The value cannot be written in its format, for example a JSON map whose keys are not text.
    fn encode(&self) -> Result<Payload, CodecError>;
}

/// What can be received: everything owned that serde can deserialise, [`Prost`], and [`Payload`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a KAR payload",
    note = "derive `serde::Deserialize` for it (owned data only), or wrap a protobuf message in `kar_sdk::Prost`"
)]
pub trait Decode: Sized {
    /// Reads a value from bytes.
    ///
    /// # Errors
    /// The bytes are of another content type, or not a value of this type.
    fn decode(payload: Payload) -> Result<Self, CodecError>;

    /// Reads a method's argument, which may be an event with its data in the payload.
    #[doc(hidden)]
    fn decode_argument(
        payload: Payload,
        _event: Option<&proto::EventDelivery>,
    ) -> Result<Self, CodecError> {
        Self::decode(payload)
    }
}

/// A payload could not be written or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CodecError {
    message: String,
}

impl Payload {
    /// Bytes of a type.
    pub fn new(content_type: impl Into<Cow<'static, str>>, data: impl Into<Bytes>) -> Self {
        Self { data: data.into(), content_type: content_type.into() }
    }

    /// Whether this is JSON by its content type; a payload without one counts as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        essence.is_empty()
            || essence.eq_ignore_ascii_case(JSON)
            || essence.to_ascii_lowercase().ends_with("+json")
    }

    pub(crate) fn into_proto(self) -> proto::Payload {
        proto::Payload {
            content_type: self.content_type.into_owned(),
            body: Some(proto::payload::Body::Data(self.data)),
        }
    }

    /// Takes a payload of the wire; one in the form of a JSON value becomes its text.
    pub(crate) fn from_proto(payload: Option<proto::Payload>) -> Self {
        let Some(payload) = payload else { return Self::default() };
        match payload.body {
            None => Self { data: Bytes::new(), content_type: payload.content_type.into() },
            Some(proto::payload::Body::Data(data)) => {
                // The common type is not worth an allocation of its own.
                let content_type = match payload.content_type.as_str() {
                    JSON => Cow::Borrowed(JSON),
                    _ => Cow::Owned(payload.content_type),
                };
                Self { data, content_type }
            }
            Some(proto::payload::Body::Json(value)) => {
                Self { data: json(value).to_string().into(), content_type: Cow::Borrowed(JSON) }
            }
        }
    }
}

/// The JSON value that a protobuf `Value` stands for. Whole numbers are written without a fraction,
/// as people mean them.
fn json(value: prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    /// Whole numbers up to here are exact in a double.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        #[allow(clippy::cast_possible_truncation)] // Checked: whole and within the exact range.
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() <= EXACT_MAX => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(fields)) => {
            fields.fields.into_iter().map(|(key, value)| (key, json(value))).collect()
        }
    }
}

impl<T: Serialize + ?Sized> Encode for T {
    fn encode(&self) -> Result<Payload, CodecError> {
        let data = serde_json::to_vec(self)
            .map_err(|e| CodecError::new(format!("cannot write {} as JSON: {e}", name::<T>())))?;
        Ok(Payload { data: data.into(), content_type: Cow::Borrowed(JSON) })
    }
}

impl<T: DeserializeOwned> Decode for T {
    fn decode(payload: Payload) -> Result<Self, CodecError> {
        if !payload.is_json() {
            return Err(CodecError::new(format!(
                "expected {JSON} for {}, got {}",
                name::<T>(),
                payload.content_type
            )));
        }
        // No bytes at all stand for no value, which JSON calls null.
        let text: &[u8] = if payload.data.is_empty() { b"null" } else { &payload.data };
        serde_json::from_slice(text)
            .map_err(|e| CodecError::new(format!("not a JSON value of {}: {e}", name::<T>())))
    }
}

impl<M: prost::Message> Encode for Prost<M> {
    fn encode(&self) -> Result<Payload, CodecError> {
        Ok(Payload { data: self.0.encode_to_vec().into(), content_type: Cow::Borrowed(PROTOBUF) })
    }
}

impl<M: prost::Message + Default> Decode for Prost<M> {
    fn decode(payload: Payload) -> Result<Self, CodecError> {
        if payload.content_type == JSON {
            return Err(CodecError::new(format!("expected {PROTOBUF} for {}", name::<M>())));
        }
        let message = M::decode(payload.data)
            .map_err(|e| CodecError::new(format!("not a message of {}: {e}", name::<M>())))?;
        Ok(Self(message))
    }
}

impl Encode for Payload {
    fn encode(&self) -> Result<Payload, CodecError> {
        Ok(self.clone())
    }
}

impl Decode for Payload {
    fn decode(payload: Payload) -> Result<Self, CodecError> {
        Ok(payload)
    }
}

impl CodecError {
    pub(crate) fn new(message: String) -> Self {
        Self { message }
    }
}

impl fmt::Display for Payload {
    /// Text as it is, other bytes as their number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.data) {
            Ok(text) => f.write_str(text),
            Err(_) => write!(f, "({} bytes of {})", self.data.len(), self.content_type),
        }
    }
}

/// Short name of a type, for messages.
pub(crate) fn name<T: ?Sized>() -> &'static str {
    let full = std::any::type_name::<T>();
    let base = full.split('<').next().unwrap_or(full);
    base.rsplit("::").next().unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Point {
        #[prost(int32, tag = "1")]
        x: i32,
    }

    #[test]
    fn json_by_default() {
        let payload = vec![1, 2].encode().unwrap();
        assert_eq!((payload.data.as_ref(), payload.content_type.as_ref()), (&b"[1,2]"[..], JSON));
        assert_eq!(Vec::<i32>::decode(payload).unwrap(), [1, 2]);
        <()>::decode(Payload::default()).unwrap();
        assert_eq!(Option::<i32>::decode(Payload::default()).unwrap(), None);
    }

    #[test]
    fn errors_name_the_type() {
        let error = u8::decode(Payload::new(JSON, "\"x\"")).unwrap_err().to_string();
        assert!(error.starts_with("not a JSON value of u8: "), "{error}");
        let error = u8::decode(Payload::new(PROTOBUF, "x")).unwrap_err().to_string();
        assert_eq!(error, "expected application/json for u8, got application/protobuf");
        let error = Prost::<Point>::decode(Payload::new(JSON, "{}")).unwrap_err().to_string();
        assert_eq!(error, "expected application/protobuf for Point");
    }

    #[test]
    fn protobuf_and_raw_by_choice() {
        let payload = Prost(Point { x: 7 }).encode().unwrap();
        assert_eq!(payload.content_type, PROTOBUF);
        assert_eq!(Prost::<Point>::decode(payload).unwrap().0.x, 7);
        let raw = Payload::new("image/png", &b"\x89PNG"[..]);
        assert_eq!(Payload::decode(raw.encode().unwrap()).unwrap(), raw);
        assert_eq!(raw.to_string(), "(4 bytes of image/png)");
    }

    #[test]
    fn a_json_value_becomes_its_text() {
        use prost_types::value::Kind;
        let value = prost_types::Value { kind: Some(Kind::NumberValue(5.0)) };
        let list = prost_types::ListValue { values: vec![value] };
        let value = prost_types::Value { kind: Some(Kind::ListValue(list)) };
        let payload = proto::Payload {
            content_type: String::new(),
            body: Some(proto::payload::Body::Json(value)),
        };
        assert_eq!(Payload::from_proto(Some(payload)), Payload::new(JSON, "[5]"));
    }
}
