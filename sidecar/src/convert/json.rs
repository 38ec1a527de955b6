//! `google.protobuf.Value`, the form of payloads for people with `grpcurl`, to JSON text and back.

use bytes::Bytes;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Number};

/// Content type of JSON text.
pub const CONTENT_TYPE: &str = "application/json";

/// Whole numbers up to here are the same as a JSON number and as a `double`.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// JSON text of a value. Numbers that JSON does not have (NaN, infinities) become `null`.
pub fn to_text(value: &Value) -> Bytes {
    to_json(value).to_string().into()
}

/// The value that a JSON text stands for, `None` if it is not JSON. As in JavaScript, numbers beyond 2^53 are rounded.
pub fn from_text(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok().map(from_json)
}

/// Whether a content type promises JSON.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(CONTENT_TYPE) || essence.ends_with("+json")
}

fn to_json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(b)) => Json::Bool(*b),
        Some(Kind::StringValue(s)) => Json::String(s.clone()),
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::ListValue(l)) => Json::Array(l.values.iter().map(to_json).collect()),
        Some(Kind::StructValue(s)) => {
            let fields = s.fields.iter().map(|(key, value)| (key.clone(), to_json(value)));
            Json::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// Whole numbers are written without a point, as the person wrote them.
fn number(n: f64) -> serde_json::Value {
    if n.fract() == 0.0 && n.abs() <= EXACT_MAX {
        return (n as i64).into();
    }
    Number::from_f64(n).map_or(serde_json::Value::Null, serde_json::Value::Number)
}

fn from_json(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(b) => Kind::BoolValue(b),
        Json::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(s) => Kind::StringValue(s),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(from_json).collect() })
        }
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(key, value)| (key, from_json(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        let texts = [
            "null",
            "true",
            "1",
            "-7",
            "1.5",
            "9007199254740992",
            r#""a""#,
            r#"[1,"b",null]"#,
            r#"{"a":{"b":[]},"c":2}"#,
        ];
        for text in texts {
            let value = from_text(text.as_bytes()).expect(text);
            assert_eq!(to_text(&value), text.as_bytes(), "{text}");
        }
        assert_eq!(from_text(b"{"), None);
        assert_eq!(to_text(&Value { kind: Some(Kind::NumberValue(f64::NAN)) }), "null");
    }

    #[test]
    fn json_is_known_by_its_type() {
        for yes in ["application/json", "application/JSON; charset=utf-8", "application/ld+json"] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["", "text/plain", "application/jsonp"] {
            assert!(!is_json(no), "{no}");
        }
    }
}
