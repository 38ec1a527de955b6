//! Application bytes on the command line: JSON by default, files and other types on demand.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kar_proto::v1::Payload;
use kar_proto::v1::payload::Body;
use serde_json::{Value, json};

use super::exit::{Code, Failure, Outcome};

/// Longest payload that is read, bytes: what no sidecar takes need not be held in memory.
const PAYLOAD_BYTES_MAX: u64 = 32 << 20;

/// Type of JSON payloads.
const JSON: &str = "application/json";

/// Makes a payload from what the command line gives: JSON text, a file (`-`: standard input), or
/// neither, which is JSON's `null`.
pub(crate) fn read(
    text: Option<&str>,
    file: Option<&Path>,
    content_type: &str,
) -> Outcome<Payload> {
    match (text, file) {
        (Some(_), Some(_)) => {
            Err(Failure::usage("both JSON and --file are given").advise("leave one of them out"))
        }
        (text, None) => {
            let text = text.unwrap_or("null");
            check_json(text.as_bytes(), text)?;
            Ok(payload(text.as_bytes().to_vec(), JSON))
        }
        (None, Some(path)) => {
            let shown = match path.as_os_str() == "-" {
                true => "standard input".to_owned(),
                false => path.display().to_string(),
            };
            let bytes = read_file(path, &shown)?;
            if content_type == JSON {
                check_json(&bytes, &shown)?;
            }
            Ok(payload(bytes, content_type))
        }
    }
}

fn read_file(path: &Path, shown: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that there is more than may be sent.
    let max = PAYLOAD_BYTES_MAX + 1;
    let result = if path.as_os_str() == "-" {
        io::stdin().lock().take(max).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(max).read_to_end(&mut bytes))
    };
    result.map_err(|e| {
        Failure::usage(format!("cannot read {shown}: {e}"))
            .advise("give the path of a file, or - for standard input")
    })?;
    if bytes.len() as u64 >= max {
        return Err(Failure::new(
            Code::Limit,
            format!("{shown} has more than {PAYLOAD_BYTES_MAX} bytes"),
        )
        .advise("send a smaller payload: a file's path or a link, say, and not its content"));
    }
    Ok(bytes)
}

fn check_json(bytes: &[u8], shown: &str) -> Outcome {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::usage(format!("not JSON: {shown}: {e}"))
            .advise("a text is written '\"text\"'; other types go by --file and --content-type")),
    }
}

fn payload(bytes: Vec<u8>, content_type: &str) -> Payload {
    Payload { body: Some(Body::Data(bytes.into())), content_type: content_type.into() }
}

/// Prints a result to standard output: JSON indented where people read it and as it came elsewhere,
/// text as text, other bytes as they are (but not to a terminal).
pub(crate) fn print(payload: &Payload) -> Outcome {
    let terminal = io::stdout().is_terminal();
    match (value(payload), bytes(payload)) {
        (Some(value), _) if terminal => line(&format!("{value:#}")),
        (_, []) => Ok(()),
        (_, bytes) if terminal && std::str::from_utf8(bytes).is_err() => {
            let (length, kind) = (bytes.len(), &payload.content_type);
            Err(Failure::usage(format!("the result is {length} bytes of type '{kind}', not text"))
                .advise("send standard output to a file or another command"))
        }
        (Some(_), bytes) | (None, bytes) if std::str::from_utf8(bytes).is_ok() => {
            line(&String::from_utf8_lossy(bytes))
        }
        (_, bytes) => {
            let mut out = io::stdout().lock();
            written(out.write_all(bytes).and_then(|()| out.flush()))
        }
    }
}

/// Prints one line to standard output.
pub(crate) fn line(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// The same for output that goes on: whether there is somebody who reads it.
pub(crate) fn line_if_read(text: &str) -> Outcome<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => written(result).map(|()| true),
    }
}

/// A reader that went away (`| head`) is no error.
fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Failure::internal(format!("cannot write to standard output: {e}"))),
    }
}

/// A payload as a JSON value for listings: JSON as itself, text as a string, other bytes in base64
/// with their type.
pub(crate) fn to_json(payload: &Payload) -> Value {
    if let Some(value) = value(payload) {
        return value;
    }
    let bytes = bytes(payload);
    match std::str::from_utf8(bytes) {
        Ok("") => Value::Null,
        Ok(text) => Value::String(text.into()),
        Err(_) => json!({ "content_type": payload.content_type, "base64": STANDARD.encode(bytes) }),
    }
}

/// A payload as the JSON form of CloudEvents has it, with the name of the member; `None`: there is none.
pub(crate) fn to_event_data(payload: &Payload) -> Option<(&'static str, Value)> {
    if let Some(value) = value(payload) {
        return Some(("data", value));
    }
    match std::str::from_utf8(bytes(payload)) {
        Ok("") => None,
        Ok(text) => Some(("data", text.into())),
        Err(_) => Some(("data_base64", STANDARD.encode(bytes(payload)).into())),
    }
}

/// The payload's JSON value, if it is JSON by its type, or has no type and looks it.
fn value(payload: &Payload) -> Option<Value> {
    let json = matches!(payload.content_type.split(';').next(), Some("" | JSON))
        || payload.content_type.ends_with("+json");
    json.then(|| serde_json::from_slice(bytes(payload)).ok()).flatten()
}

fn bytes(payload: &Payload) -> &[u8] {
    match &payload.body {
        Some(Body::Data(data)) => data,
        // Answers come in the form of the request, and requests from here carry bytes.
        Some(Body::Json(_)) | None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::Code;
    use super::*;

    #[test]
    fn nothing_means_null() {
        let made = read(None, None, JSON).expect("a payload");
        assert_eq!((bytes(&made), made.content_type.as_str()), (&b"null"[..], JSON));
    }

    #[test]
    fn what_is_not_json_is_refused_with_advice() {
        let failure = read(Some("Alan"), None, JSON).expect_err("refused");
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.advice.is_some());
    }

    #[test]
    fn json_is_sent_as_it_was_typed() {
        let made = read(Some("{ \"a\": 1.0 }"), None, JSON).expect("a payload");
        assert_eq!(bytes(&made), b"{ \"a\": 1.0 }");
    }

    #[test]
    fn listings_show_every_type() {
        assert_eq!(to_json(&payload(b"{\"a\":1}".to_vec(), JSON)), json!({"a": 1}));
        assert_eq!(to_json(&payload(b"hello".to_vec(), "text/plain")), json!("hello"));
        assert_eq!(to_json(&payload(b"12".to_vec(), "text/plain")), json!("12"));
        let binary = to_json(&payload(vec![0xff, 0], "image/png"));
        assert_eq!(binary, json!({"content_type": "image/png", "base64": "/wA="}));
    }
}
