//! `kar state`: the application's state, and a look at an actor's.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, DeleteRequest, GetAllRequest, ListRequest, ListSubMapRequest, SetRequest,
    StateEntry, StateServiceGetRequest, TransactRequest,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::args::{Format, StateCommand};
use super::client::{Session, with_session};
use super::exit::{Code, Effect, Failure, Outcome};
use super::output::{self, Table};
use super::payload;

/// Keys or entries asked for at a time.
const PAGE_SIZE: i32 = 500;
/// Characters of a value that a table shows.
const VALUE_CHARS_MAX: usize = 80;
/// What Ctrl-C means for a change that was sent.
const UNKNOWN: &str = "whether the change was made is unknown; read the key";

/// `kar state …`.
pub(crate) async fn state(command: StateCommand) -> Outcome {
    match command {
        StateCommand::Get { reach, key, output } => {
            with_session(&reach, "nothing was changed", async |s| get(s, key, output).await).await
        }
        StateCommand::Set { reach, key, value, file, content_type, etag, ttl } => {
            let value = payload::read(value.as_deref(), file.as_deref(), &content_type)?;
            let request = SetRequest {
                key,
                value: Some(value),
                etag: etag.unwrap_or_default(),
                request_id: Uuid::now_v7().to_string(),
                time_to_live: ttl.map(lifetime).transpose()?,
            };
            with_session(&reach, UNKNOWN, async |session| {
                let answer = session.state().set(request).await.map_err(written)?;
                payload::line(&answer.into_inner().etag)
            })
            .await
        }
        StateCommand::Transact { reach, set, delete, etag, ttl, output } => {
            let request = transaction(&set, delete, &etag, ttl)?;
            with_session(
                &reach,
                "whether the changes were made is unknown; read the keys",
                async |s| transact(s, request, output).await,
            )
            .await
        }
        StateCommand::Delete { reach, key, etag } => {
            with_session(&reach, UNKNOWN, async |s| delete(s, key, etag).await).await
        }
        StateCommand::List { reach, prefix, output } => {
            with_session(&reach, "nothing was changed", async |s| list(s, prefix, output).await)
                .await
        }
        StateCommand::Actor { reach, kind, id, sub_map, output } => {
            let target = ActorTarget { r#type: kind, id };
            with_session(&reach, "nothing was changed", async |session| match sub_map {
                Some(name) => sub_map_of(session, target, name, output).await,
                None => actor(session, target, output).await,
            })
            .await
        }
    }
}

async fn get(session: &Session, key: String, format: Format) -> Outcome {
    let request = StateServiceGetRequest { key: key.clone() };
    let answer = session.state().get(request).await.map_err(read)?.into_inner();
    let Some(value) = &answer.value else {
        return Err(Failure::new(Code::NotFound, format!("no key '{key}'"))
            .advise("`kar state list` shows the keys"));
    };
    match format {
        Format::Table => payload::print(value),
        Format::Json => {
            let shown = json!({
                "key": key, "value": payload::to_json(value), "etag": answer.etag,
                "expire_time": answer.expire_time.as_ref().map(ToString::to_string),
            });
            payload::line(&format!("{shown:#}"))
        }
    }
}

/// A time to live for the wire.
fn lifetime(time: Duration) -> Outcome<prost_types::Duration> {
    let too_long = |_| Failure::usage("the time to live is too long: leave --ttl out");
    time.try_into().map_err(too_long)
}

/// What the command line asks for: keys with values, and keys with etags, by twos.
fn transaction(
    set: &[String],
    delete: Vec<String>,
    etag: &[String],
    ttl: Option<Duration>,
) -> Outcome<TransactRequest> {
    if set.is_empty() && delete.is_empty() {
        return Err(Failure::usage("nothing to do").advise("give --set KEY JSON or --delete KEY"));
    }
    let time_to_live = ttl.map(lifetime).transpose()?;
    let mut etags = BTreeMap::new();
    for pair in etag.chunks_exact(2) {
        if etags.insert(pair[0].as_str(), pair[1].clone()).is_some() {
            return Err(Failure::usage(format!("--etag is given twice for '{}'", pair[0])));
        }
    }
    let mut sets = Vec::new();
    for pair in set.chunks_exact(2) {
        sets.push(SetRequest {
            key: pair[0].clone(),
            value: Some(payload::read(Some(&pair[1]), None, "application/json")?),
            etag: etags.remove(pair[0].as_str()).unwrap_or_default(),
            time_to_live,
            ..Default::default()
        });
    }
    let mut deletes = Vec::new();
    for key in delete {
        let etag = etags.remove(key.as_str()).unwrap_or_default();
        deletes.push(DeleteRequest { key, etag, request_id: String::new() });
    }
    if let Some(key) = etags.keys().next() {
        return Err(Failure::usage(format!(
            "--etag names '{key}', which is neither set nor deleted"
        ))
        .advise("a condition is on a key that is changed"));
    }
    Ok(TransactRequest { sets, deletes, request_id: Uuid::now_v7().to_string() })
}

async fn transact(session: &Session, request: TransactRequest, format: Format) -> Outcome {
    let answer = session.state().transact(request.clone()).await.map_err(written)?.into_inner();
    let mut table = Table::new(&["KEY", "DONE", "ETAG"]);
    let mut done = Vec::new();
    for (set, etag) in request.sets.into_iter().zip(answer.etags) {
        done.push(json!({ "key": set.key, "done": "set", "etag": etag }));
        table.row(vec![set.key, "set".into(), etag]);
    }
    for (delete, existed) in request.deletes.into_iter().zip(answer.existed) {
        let what = if existed { "deleted" } else { "was absent" };
        done.push(json!({ "key": delete.key, "done": "deleted", "existed": existed }));
        table.row(vec![delete.key, what.into(), String::new()]);
    }
    output::print(format, &table, &Value::Array(done))
}

async fn delete(session: &Session, key: String, etag: Option<String>) -> Outcome {
    let request = DeleteRequest {
        key: key.clone(),
        etag: etag.unwrap_or_default(),
        request_id: Uuid::now_v7().to_string(),
    };
    let answer = session.state().delete(request).await.map_err(written)?.into_inner();
    if !answer.existed {
        eprintln!("no key '{key}'; nothing to delete");
    }
    Ok(())
}

async fn list(session: &Session, prefix: String, format: Format) -> Outcome {
    let mut entries = Vec::new();
    let mut request = ListRequest { prefix, page_size: PAGE_SIZE, page_token: String::new() };
    loop {
        let page = session.state().list(request.clone()).await.map_err(read)?.into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return print_entries(entries, format);
        }
        request.page_token = page.next_page_token;
    }
}

async fn sub_map_of(
    session: &Session,
    actor: ActorTarget,
    name: String,
    format: Format,
) -> Outcome {
    let none = format!("{} {} has no sub-map '{name}'", actor.r#type, actor.id);
    let mut entries = Vec::new();
    let mut request = ListSubMapRequest {
        turn_token: String::new(),
        actor: Some(actor),
        sub_map: name,
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    loop {
        let page = session.actor_state().list_sub_map(request.clone()).await.map_err(read)?;
        let page = page.into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if entries.is_empty() && format == Format::Table {
        eprintln!("{none}");
        return Ok(());
    }
    print_entries(entries, format)
}

fn print_entries(entries: Vec<StateEntry>, format: Format) -> Outcome {
    let mut table = Table::new(&["KEY", "VALUE"]);
    let mut rows = Vec::new();
    for entry in entries {
        let value = entry.value.as_ref().map_or(Value::Null, payload::to_json);
        table.row(vec![entry.key.clone(), shorten(&value.to_string())]);
        rows.push(json!({ "key": entry.key, "value": value }));
    }
    output::print(format, &table, &Value::Array(rows))
}

async fn actor(session: &Session, actor: ActorTarget, format: Format) -> Outcome {
    let name = format!("{} {}", actor.r#type, actor.id);
    let request = GetAllRequest { turn_token: String::new(), actor: Some(actor) };
    let answer = session.actor_state().get_all(request).await.map_err(read)?.into_inner();
    let values: Map<String, Value> =
        answer.entries.iter().map(|(key, value)| (key.clone(), payload::to_json(value))).collect();
    let mut table = Table::new(&["KEY", "VALUE"]);
    for (key, value) in &values {
        table.row(vec![key.clone(), shorten(&value.to_string())]);
    }
    if values.is_empty() && format == Format::Table {
        eprintln!("{name} has no committed state");
        return Ok(());
    }
    output::print(format, &table, &Value::Object(values))
}

fn read(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Reads)
}

fn written(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_read_by_twos() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let set = words(&["a", "1", "b", "\"x\""]);
        let request = transaction(&set, words(&["c"]), &words(&["b", "17", "c", "*"]), None);
        let request = request.expect("it makes sense");
        let etags: Vec<_> =
            request.sets.iter().map(|s| (s.key.as_str(), s.etag.as_str())).collect();
        assert_eq!(etags, [("a", ""), ("b", "17")]);
        assert_eq!((request.deletes[0].key.as_str(), request.deletes[0].etag.as_str()), ("c", "*"));
        for (set, etag) in
            [(&["a", "1"][..], &["b", "17"][..]), (&["a", "no JSON"], &[]), (&[], &[])]
        {
            assert!(transaction(&words(set), vec![], &words(etag), None).is_err(), "{set:?}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "é".repeat(VALUE_CHARS_MAX + 1);
        assert_eq!(shorten(&long).chars().count(), VALUE_CHARS_MAX + 1);
        assert!(shorten(&long).ends_with('…'));
        assert_eq!(shorten("é"), "é");
    }
}
