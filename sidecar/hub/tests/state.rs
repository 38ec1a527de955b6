//! Application state: conditions, transactions, time to live, and what a killed hub leaves of them.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::node;
use kar_hub::{HubClient, HubError, HubEvent, StateDelete, StateSet, Value};

fn value(text: &str) -> Value {
    Value { data: Bytes::from(text.to_owned()), content_type: "text/plain".into() }
}

fn set(key: &str, text: &str, etag: Option<&str>) -> StateSet {
    let (key, etag) = (key.to_owned(), etag.map(str::to_owned));
    StateSet { key, value: value(text), etag, time_to_live: None }
}

async fn put(
    client: &HubClient,
    key: &str,
    text: &str,
    etag: Option<&str>,
    id: Option<&str>,
) -> Result<String, HubError> {
    client.state_set(set(key, text, etag), id).await
}

async fn drop_key(
    client: &HubClient,
    key: &str,
    etag: Option<&str>,
    id: Option<&str>,
) -> Result<bool, HubError> {
    let (key, etag) = (key.to_owned(), etag.map(str::to_owned));
    client.state_delete(StateDelete { key, etag }, id).await
}

#[tokio::test]
async fn application_state_has_conditions_and_remembers_requests() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    assert_eq!(a.state_get("k").await.unwrap(), None);
    let first = put(&a, "k", "1", Some("*"), Some("r1")).await.unwrap();
    let error = put(&a, "k", "2", Some("*"), None).await.unwrap_err();
    assert!(matches!(error, HubError::ConditionFailed { etag, .. } if etag == first));
    let again = put(&a, "k", "1", Some("*"), Some("r1")).await.unwrap();
    assert_eq!(again, first, "the answer of the first");
    let another = put(&a, "k", "other", Some("*"), Some("r1")).await.unwrap_err();
    assert!(matches!(&another, HubError::Invalid(text) if text.contains("'r1'")), "{another}");
    let second = put(&a, "k", "2", Some(&first), None).await.unwrap();
    assert_ne!(second, first);
    assert!(put(&a, "k", "3", Some(&first), None).await.is_err());
    let entry = a.state_get("k").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.etag), (value("2"), second.clone()));
    assert!(drop_key(&a, "k", Some(&first), None).await.is_err());
    assert!(drop_key(&a, "k", Some(&second), Some("r2")).await.unwrap());
    assert!(drop_key(&a, "k", Some(&second), Some("r2")).await.unwrap(), "remembered");
    assert!(!drop_key(&a, "k", None, None).await.unwrap());
    let third = put(&a, "k", "1", None, None).await.unwrap();
    assert!(third != first && third != second, "etags do not come back");
    let error = put(&a, "", "1", None, None).await.unwrap_err();
    assert!(matches!(error, HubError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn application_state_is_listed_by_prefix_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    for n in 0..25 {
        put(&a, &format!("p/{n:02}"), "x", None, None).await.unwrap();
    }
    put(&a, "o", "x", None, None).await.unwrap();
    put(&a, "q", "x", None, None).await.unwrap();
    let mut keys = Vec::new();
    let mut token = String::new();
    let mut pages = 0;
    loop {
        let page = a.state_list("p/", 10, &token).await.unwrap();
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        token = page.next_page_token;
        pages += 1;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, (0..25).map(|n| format!("p/{n:02}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn requests_survive_the_hub_and_take_effect_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let mut last = 0;
    for round in 0..10 {
        let key = format!("k{round}");
        let set = put(&a.client, &key, "x", Some("*"), None);
        let pid = common::hub_pid(dir.path());
        // The request and the kill race; the client repeats what got no answer.
        let (etag, ()) = tokio::join!(set, async { common::signal(common::Signal::KILL, pid) });
        let etag: u64 = etag.expect("only absent keys are set").parse().unwrap();
        assert!(etag > last);
        last = etag;
        a.wait(HubEvent::Reconnected).await;
    }
    assert_eq!(a.client.state_list("k", 100, "").await.unwrap().entries.len(), 10);
}

/// Each round changes two keys by their etags while the hub is killed; the client repeats what got no answer. Were a
/// change done twice, its conditions would not hold the second time.
#[tokio::test]
async fn transactions_survive_the_hub_and_take_effect_once_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let mut reader = node(dir.path(), "r").await;
    let mut etags = [String::from("*"), String::from("*")];
    for round in 0..20 {
        let text = round.to_string();
        let sets = ["x", "y"].into_iter().zip(&etags);
        let sets = sets.map(|(key, etag)| set(key, &text, Some(etag))).collect();
        let gone = StateDelete { key: format!("z{round}"), etag: None };
        let transact = a.client.state_transact(sets, vec![gone], None);
        let pid = common::hub_pid(dir.path());
        let (done, page, ()) =
            tokio::join!(transact, reader.client.state_list("", 10, ""), async {
                // Before it is heard, in its middle, or after it: as it comes.
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                common::signal(common::Signal::KILL, pid);
            });
        let entries = page.expect("listed").entries;
        assert!(entries.iter().all(|entry| entry.value == entries[0].value), "{entries:?}");
        let done = done.expect("its conditions hold");
        assert_eq!(done.existed, [false]);
        etags = done.etags.try_into().expect("two");
        for node in [&mut a, &mut reader] {
            node.wait(HubEvent::Reconnected).await;
        }
        for (key, etag) in ["x", "y"].into_iter().zip(&etags) {
            let entry = a.client.state_get(key).await.unwrap().expect("set");
            assert_eq!((&entry.etag, entry.value), (etag, value(&text)));
        }
    }
}

#[tokio::test]
async fn time_to_live_goes_on_while_the_hub_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    for (key, time_to_live) in [("soon", Some(400)), ("late", Some(3_600_000)), ("never", None)] {
        let time_to_live = time_to_live.map(Duration::from_millis);
        a.client.state_set(StateSet { time_to_live, ..set(key, "v", None) }, None).await.unwrap();
    }
    let soon = a.client.state_get("soon").await.unwrap().expect("there");
    let late = a.client.state_get("late").await.unwrap().expect("there");
    let (soon, late) = (soon.expires_ms.expect("some time"), late.expires_ms.expect("some time"));
    assert!(late - soon > 3_500_000, "{soon} {late}");
    common::kill(common::hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    while let Some(entry) = a.client.state_get("soon").await.unwrap() {
        assert_eq!(entry.expires_ms, Some(soon));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!(now.unwrap().as_millis() as u64 >= soon, "not before its time");
    common::kill(common::hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    assert_eq!(a.client.state_get("soon").await.unwrap(), None);
    let entries = a.client.state_list("", 10, "").await.unwrap().entries;
    let keys: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.expires_ms)).collect();
    assert_eq!(keys, [("late", Some(late)), ("never", None)]);
}
