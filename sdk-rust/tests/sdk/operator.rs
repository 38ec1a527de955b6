//! What operators ask for: by pages, again while nobody answers, and never twice what is done.

use std::time::Duration;

use kar_proto::v1 as proto;
use kar_sdk::{CallError, Client, Kar};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::bounded;
use crate::common::Fake;

fn actor(id: &str) -> proto::ActorInfo {
    let actor = proto::ActorTarget { r#type: "Account".to_owned(), id: id.to_owned() };
    proto::ActorInfo { actor: Some(actor), node: "n1".to_owned(), queued: 4, busy: true }
}

fn page(ids: &[&str], next: &str) -> proto::ListActorsResponse {
    proto::ListActorsResponse {
        actors: ids.iter().map(|id| actor(id)).collect(),
        next_page_token: next.to_owned(),
        left_out: None,
    }
}

async fn client(fake: &Fake, patience: Duration) -> Client {
    fake.set_token("secret");
    let kar = Kar::builder().socket(&fake.socket).api_token("secret").reconnect_timeout(patience);
    kar.connect().await.unwrap()
}

#[tokio::test]
async fn listings_come_by_pages_and_say_what_they_leave_out() {
    let fake = Fake::start().await;
    let client = client(&fake, Duration::from_secs(60)).await;
    let silent = proto::SilentNode { name: "n2".to_owned(), cause: "away".to_owned() };
    let left_out = proto::LeftOut { nodes: vec![silent], rows: 7, ..Default::default() };
    // A page in the middle is empty: that is not the end.
    let empty = proto::ListActorsResponse { left_out: Some(left_out), ..page(&[], "2") };
    fake.script(|operators| {
        operators.actors.extend([Ok(page(&["a", "b"], "1")), Ok(empty), Ok(page(&["c"], ""))]);
    });
    let mut listing = client.operator().actors().of("Account").page_size(2);
    let first = bounded(listing.up_to(1)).await.unwrap();
    assert_eq!((first[0].id.as_str(), first[0].queued, first[0].is_busy), ("a", 4, true));
    assert_eq!(fake.actors_asked().len(), 1, "no page is asked for before it is wanted");
    assert!(listing.left_out().is_empty());
    let rest = bounded(listing.up_to(9)).await.unwrap();
    let ids: Vec<_> = rest.iter().map(|actor| actor.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    let told = listing.left_out();
    assert_eq!((&told.nodes, told.rows), (&vec![("n2".to_owned(), "away".to_owned())], 7));
    assert_eq!(bounded(listing.next()).await, Ok(None));
    let asked = ["", "1", "2"].map(|token| ("Account".to_owned(), 2, token.to_owned()));
    assert_eq!(fake.actors_asked(), asked);
}

#[tokio::test]
async fn what_only_asks_is_asked_again_while_nobody_answers() {
    let fake = Fake::start().await;
    let patient = client(&fake, Duration::from_secs(60)).await;
    let away = || Err(Status::unavailable("not now"));
    let broken = || Err(Status::cancelled("h2 protocol error"));
    fake.script(|operators| operators.actors.extend([away(), broken(), Ok(page(&["a"], ""))]));
    let found = bounded(patient.operator().actors().up_to(9)).await.unwrap();
    assert_eq!((found.len(), fake.actors_asked().len()), (1, 3));
    // What is refused is not asked again, and a listing goes on after an error.
    let refused = || Err(Status::invalid_argument("no"));
    fake.script(|operators| {
        let pages = [Ok(page(&["a"], "1")), refused(), Ok(page(&["b"], ""))];
        operators.actors.extend(pages);
    });
    let mut listing = patient.operator().actors();
    assert!(matches!(bounded(listing.up_to(9)).await, Err(CallError::Rejected(_))));
    assert_eq!(bounded(listing.up_to(9)).await.unwrap().len(), 2, "nothing is lost");
    let impatient = client(&fake, Duration::from_millis(1)).await;
    fake.script(|operators| operators.actors.push_back(away()));
    let error = bounded(impatient.operator().actors().next()).await.unwrap_err();
    assert!(matches!(error, CallError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn handing_over_is_asked_for_once() {
    let fake = Fake::start().await;
    let client = client(&fake, Duration::from_secs(60)).await;
    fake.script(|operators| {
        let details = ErrorDetails::with_error_info("DRAINING", "kar", []);
        let draining = Status::with_error_details(Code::Unavailable, "ask again", details);
        let lost = Status::unavailable("broken pipe");
        operators.drains.extend([Err(lost), Err(draining), Ok(())]);
    });
    let lost = bounded(client.operator().drain()).await.unwrap_err();
    assert!(lost.is_unknown(), "it may have been done: {lost:?}");
    let draining = bounded(client.operator().drain()).await.unwrap_err();
    assert!(
        matches!(&draining, CallError::Unavailable(r) if r.reason == "DRAINING"),
        "{draining:?}"
    );
    assert_eq!(bounded(client.operator().drain()).await, Ok(()));
}

#[tokio::test]
async fn dead_letters_that_may_have_been_sent_are_not_sent_again() {
    let fake = Fake::start().await;
    let client = client(&fake, Duration::from_secs(60)).await;
    let operator = client.operator();
    let id = kar_sdk::InvocationId("dead".to_owned());
    assert_eq!(bounded(operator.redrive(&id)).await.unwrap().0, "dead, again");
    let none = kar_sdk::InvocationId("none".to_owned());
    let unknown = bounded(operator.discard(&none)).await.unwrap_err();
    assert!(matches!(unknown, CallError::UnknownInvocation(_)), "{unknown:?}");
    let held = kar_sdk::InvocationId("held".to_owned());
    let redriving = tokio::spawn(async move { operator.redrive(&held).await });
    fake.until("it is under way", |f| f.log().contains(&"redrive held".to_owned())).await;
    fake.break_streams();
    assert!(bounded(redriving).await.unwrap().unwrap_err().is_unknown());
    fake.until("it is back", |f| f.streams() == 1).await;
    assert_eq!(fake.log().iter().filter(|what| *what == "redrive held").count(), 1);
}
