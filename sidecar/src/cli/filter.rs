//! Which events are wanted, on the command line.

use kar_proto::v1::event_filter::Dialect;
use kar_proto::v1::{AttributeValues, EventFilter, EventFilters};
use serde_json::{Map, Value, json};

use super::args::FilterArgs;

/// The filter that the command line describes: all of it must hold.
pub(super) fn filter(args: &FilterArgs) -> Option<EventFilter> {
    let compared = |pairs: &[(String, String)], dialect: fn(AttributeValues) -> Dialect| {
        // One for each, so that an attribute can be named twice.
        let filter = |pair: &(String, String)| {
            let attributes = [pair.clone()].into();
            EventFilter { dialect: Some(dialect(AttributeValues { attributes })) }
        };
        pairs.iter().map(filter).collect::<Vec<_>>()
    };
    let mut filters = [
        compared(&args.exact, Dialect::Exact),
        compared(&args.prefix, Dialect::Prefix),
        compared(&args.suffix, Dialect::Suffix),
        args.filter.clone(),
    ]
    .concat();
    match filters.len() {
        0 | 1 => filters.pop(),
        _ => Some(EventFilter { dialect: Some(Dialect::All(EventFilters { filters })) }),
    }
}

/// A filter in the form of the CloudEvents Subscriptions API.
pub(super) fn to_json(filter: &EventFilter) -> Value {
    let compared = |values: &AttributeValues| {
        let mut pairs: Vec<_> = values.attributes.iter().collect();
        pairs.sort();
        pairs.into_iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
    };
    let compared = |values: &AttributeValues| Value::Object(compared(values));
    let each = |filters: &EventFilters| -> Value { filters.filters.iter().map(to_json).collect() };
    match &filter.dialect {
        Some(Dialect::Exact(values)) => json!({ "exact": compared(values) }),
        Some(Dialect::Prefix(values)) => json!({ "prefix": compared(values) }),
        Some(Dialect::Suffix(values)) => json!({ "suffix": compared(values) }),
        Some(Dialect::All(filters)) => json!({ "all": each(filters) }),
        Some(Dialect::Any(filters)) => json!({ "any": each(filters) }),
        Some(Dialect::NotMatching(inner)) => json!({ "not": to_json(inner) }),
        None => Value::Null,
    }
}

/// Reads a filter in that form. What is empty or too deep the sidecar refuses.
pub(super) fn parse(text: &str) -> Result<EventFilter, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    read(&value)
}

fn read(value: &Value) -> Result<EventFilter, String> {
    let only = value.as_object().filter(|filter| filter.len() == 1);
    let Some((form, inner)) = only.and_then(|filter| filter.iter().next()) else {
        let what = "must be an object with one of exact, prefix, suffix, all, any, not";
        return Err(format!("{value} {what}"));
    };
    let dialect = match form.as_str() {
        "exact" => Dialect::Exact(values(form, inner)?),
        "prefix" => Dialect::Prefix(values(form, inner)?),
        "suffix" => Dialect::Suffix(values(form, inner)?),
        "all" => Dialect::All(several(form, inner)?),
        "any" => Dialect::Any(several(form, inner)?),
        "not" => Dialect::NotMatching(Box::new(read(inner)?)),
        other => {
            return Err(format!("'{other}' is none of exact, prefix, suffix, all, any, not"));
        }
    };
    Ok(EventFilter { dialect: Some(dialect) })
}

fn values(form: &str, value: &Value) -> Result<AttributeValues, String> {
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let pairs = |values: &Map<String, Value>| values.iter().map(text).collect::<Option<_>>();
    let attributes = value.as_object().and_then(pairs);
    let attributes = attributes
        .ok_or_else(|| format!("\"{form}\" must have attributes with texts, and has {value}"))?;
    Ok(AttributeValues { attributes })
}

fn several(form: &str, value: &Value) -> Result<EventFilters, String> {
    let filters = value
        .as_array()
        .ok_or_else(|| format!("\"{form}\" must have an array of filters, and has {value}"))?;
    Ok(EventFilters { filters: filters.iter().map(read).collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_as_it_is_listed() {
        let text = json!({ "any": [
            { "all": [{ "prefix": { "type": "order." } }, { "suffix": { "type": ".created" } }] },
            { "not": { "exact": { "country": "ch", "subject": "alice" } } },
        ] });
        let filter = parse(&text.to_string()).expect("a filter");
        assert_eq!(to_json(&filter), text);
    }

    #[test]
    fn what_is_no_filter_says_what_would_be_one() {
        for (text, said) in [
            ("type=x", "not JSON"),
            ("[]", "one of exact, prefix, suffix, all, any, not"),
            ("{}", "one of exact"),
            (r#"{"exact":{"a":"b"},"not":{}}"#, "one of exact"),
            (r#"{"sql":"a = 1"}"#, "'sql' is none of"),
            (r#"{"exact":{"a":1}}"#, "\"exact\" must have attributes with texts"),
            (r#"{"all":{"exact":{"a":"b"}}}"#, "\"all\" must have an array"),
            (r#"{"not":[]}"#, "one of exact"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn everything_that_is_said_must_hold() {
        let pair = |value: &str| vec![("type".to_owned(), value.to_owned())];
        let mut args = FilterArgs {
            exact: Vec::new(),
            prefix: pair("a"),
            suffix: Vec::new(),
            filter: Vec::new(),
        };
        let one = filter(&args).expect("a filter");
        assert_eq!(to_json(&one), json!({ "prefix": { "type": "a" } }));
        args.filter = vec![parse(r#"{"not":{"exact":{"type":"ab"}}}"#).expect("a filter")];
        let both = filter(&args).expect("a filter");
        let wanted = json!({ "all": [{ "prefix": { "type": "a" } }, { "not": { "exact": { "type": "ab" } } }] });
        assert_eq!(to_json(&both), wanted);
        args.prefix.clear();
        args.filter.clear();
        assert_eq!(filter(&args), None);
    }
}
