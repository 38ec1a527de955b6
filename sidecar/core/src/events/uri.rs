//! URIs and media types, as far as CloudEvents asks for them.

/// Whether a text is a URI reference (RFC 3986): of its characters, in its form.
pub(super) fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut fragments = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3);
                if !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) {
                    return false;
                }
                at += 2;
            }
            b'#' => fragments += 1,
            byte if is_uri_byte(byte) => {}
            _ => return false,
        }
        at += 1;
    }
    // What is before a colon in the first part is a scheme.
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    fragments <= 1 && first.split_once(':').is_none_or(|(scheme, _)| is_scheme(scheme))
}

/// Whether a text is a URI: a reference with a scheme.
pub(super) fn is_uri(text: &str) -> bool {
    let scheme = text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme));
    scheme && is_uri_reference(text)
}

/// Whether a text is a media type (RFC 2046): `TYPE/SUBTYPE`, with parameters perhaps.
pub(super) fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    let is_plain = |c: char| c == '\t' || (!c.is_control() && c.is_ascii());
    text.chars().all(is_plain)
        && essence.split_once('/').is_some_and(|(t, subtype)| is_token(t) && is_token(subtype))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Characters that need no escape, but for `#`.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=".contains(&byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_told_from_others() {
        for yes in ["https://a.b/c?d=e#f", "urn:x:1", "mailto:a@b", "tag:%20x", "a+b-c.1:x"] {
            assert!(is_uri(yes) && is_uri_reference(yes), "{yes}");
        }
        for reference in ["/orders/eu", "orders", "//host/x", "?q", "#f", "a/b:c", "", "./x:y"] {
            assert!(is_uri_reference(reference) && !is_uri(reference), "{reference}");
        }
        for no in ["a b", "%", "%1", "%zz", "a#b#c", "1:x", ":x", "a\\b", "é", "a\"b", "<x>"] {
            assert!(!is_uri_reference(no), "{no}");
        }
    }

    #[test]
    fn media_types_are_told_from_others() {
        for yes in ["application/json", "text/plain; charset=utf-8", "application/x.y+json ;q=1"] {
            assert!(is_media_type(yes), "{yes}");
        }
        for no in
            ["", "json", "/json", "text/", "text /plain", "a/b/c", "text/plain; x=\u{1}", "é/b"]
        {
            assert!(!is_media_type(no), "{no}");
        }
    }
}
