//! Sub-maps of actors' state, and conditions of changes.

use kar_sdk::{
    ActorContext, CallError, Client, Decode as _, Error, Host, Payload, ReadsState, SubMapReader,
};

use crate::bounded;
use crate::common::Fake;

/// An actor with shelves.
struct Shop;

/// What a helper may do is in its signature.
async fn on(ctx: &impl ReadsState, shelf: &str) -> Result<u64, CallError> {
    ctx.read_state().sub_map(shelf).len().await
}

#[kar_sdk::actor]
impl Shop {
    /// Puts things on two shelves, and what is named as one of them beside these.
    async fn fill(&self, ctx: &mut ActorContext) -> Result<(u64, u64), Error> {
        let state = ctx.state();
        let (fruit, tools) = (state.sub_map("fruit"), state.sub_map("tools"));
        for (at, kind) in ["pear", "fig", "apple", "Äpfel", "lime"].iter().enumerate() {
            fruit.set(kind, &at)?;
        }
        tools.set("saw", "sharp")?;
        tools.set("fig", "a wrench")?;
        state.set("fig", "own")?;
        state.set("fruit", "own, too")?;
        assert_eq!(fruit.get("fig").await?, Some(1), "it reads what it has written");
        assert_eq!(tools.get::<String>("fig").await?.as_deref(), Some("a wrench"));
        assert_eq!(state.get::<String>("fig").await?.as_deref(), Some("own"));
        assert_eq!(fruit.get::<u32>("saw").await?, None);
        let some = fruit.get_many(&["lime", "saw", "pear"]).await?;
        assert_eq!(some.into_keys().collect::<Vec<_>>(), ["lime", "pear"]);
        assert!(tools.contains("saw").await? && !fruit.contains("saw").await?);
        assert!(!state.contains("saw").await?);
        assert_eq!(state.get_all().await?.into_keys().collect::<Vec<_>>(), ["fig", "fruit"]);
        Ok((on(ctx, "fruit").await?, on(ctx, "tools").await?))
    }

    async fn sell(&self, ctx: &mut ActorContext, kind: String) -> Result<u64, Error> {
        let fruit = ctx.state().sub_map("fruit");
        fruit.remove(&kind)?;
        Ok(fruit.len().await?)
    }

    async fn close(&self, ctx: &mut ActorContext, shelf: String) -> Result<bool, Error> {
        let shelf = ctx.state().sub_map(shelf);
        shelf.clear()?;
        Ok(shelf.is_empty().await?)
    }

    async fn burn(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        ctx.state().sub_map("fruit").clear()?;
        ctx.state().sub_map("ashes").set("all", &true)?;
        Err(Error::new("burnt", "down"))
    }

    async fn clear(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.state().clear()?)
    }

    async fn set_if(&self, ctx: &mut ActorContext, key: String) -> Result<Vec<bool>, Error> {
        let (state, map) = (ctx.state(), ctx.state().sub_map("map"));
        // What was gathered goes first.
        state.set(&key, &1)?;
        map.set(&key, &10)?;
        let mut done = vec![
            state.compare_and_set(&key, None, &2).await?,
            state.compare_and_set(&key, Some(&7), &2).await?,
            state.compare_and_set(&key, Some(&1), &2).await?,
            state.compare_and_set("new", None, &3).await?,
            map.compare_and_set(&key, Some(&1), &20).await?,
            map.compare_and_set(&key, Some(&10), &20).await?,
            map.compare_and_set("new", None, &30).await?,
            map.compare_and_set("new", None, &31).await?,
        ];
        // The same bytes of another type are another value.
        let two = |of: &'static str| Payload::new(of, "2");
        let (plain, written) = (two("text/plain"), two("application/json"));
        done.push(state.compare_and_set(&key, Some(&plain), &plain).await?);
        done.push(state.compare_and_set(&key, Some(&written), &plain).await?);
        Ok(done)
    }

    async fn claim(&self, ctx: &mut ActorContext) -> Result<bool, Error> {
        Ok(ctx.state().sub_map("map").compare_and_set("owner", None, "me").await?)
    }

    /// Asks for what has a wrong name, in every way; says how each one is refused.
    async fn misname(
        &self,
        ctx: &mut ActorContext,
        (map, key): (String, String),
    ) -> Result<Vec<String>, Error> {
        let state = ctx.state();
        let named = state.sub_map(map);
        let mut refused = refusals_of_reads(&named, &key).await;
        refused.extend([
            refusal(named.set(&key, &1)),
            refusal(named.remove(&key)),
            refusal(named.compare_and_set(&key, None, &1).await),
        ]);
        if named.name() == "map" {
            refused.extend([
                refusal(state.set(&key, &1)),
                refusal(state.remove(&key)),
                refusal(state.compare_and_set(&key, None, &1).await),
                refusal(state.get::<u32>(&key).await),
                refusal(state.contains(&key).await),
                refusal(state.get_many(&[&key]).await),
            ]);
        } else {
            refused.push(refusal(named.clear()));
        }
        Ok(refused)
    }
}

fn refusal<T: std::fmt::Debug>(of: Result<T, CallError>) -> String {
    match of {
        Err(CallError::Rejected(r)) if r.reason == "INVALID_FIELD" => {
            format!("{}: {}", r.metadata["field"], r.message)
        }
        other => panic!("not refused: {other:?}"),
    }
}

async fn refusals_of_reads(map: &SubMapReader<'_>, key: &str) -> Vec<String> {
    let mut refused = vec![
        refusal(map.get::<u32>(key).await),
        refusal(map.get_many(&["good", key]).await),
        refusal(map.contains(key).await),
    ];
    if map.name() != "map" {
        refused.extend([
            refusal(map.len().await),
            refusal(map.is_empty().await),
            refusal(map.list(1, "").await),
            refusal(map.entries().next().await),
        ]);
    }
    refused
}

async fn shop(fake: &Fake) -> (Host, Client) {
    let host = Host::builder().actor(Shop).socket(&fake.socket).start().await.unwrap();
    let client = host.client();
    (host, client)
}

async fn keys(map: &SubMapReader<'_>) -> Vec<String> {
    let entries = bounded(map.entries().up_to(usize::MAX)).await.unwrap();
    entries.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn sub_maps_are_maps_of_their_own() {
    let fake = Fake::start().await;
    let (_host, client) = shop(&fake).await;
    let shop = ShopClient::new(&client, "s");
    let actor = client.actor("Shop", "s");
    let (fruit, tools) = (actor.committed_sub_map("fruit"), actor.committed_sub_map("tools"));
    assert!(fruit.is_empty().await.unwrap(), "what does not exist is empty");
    assert_eq!(bounded(shop.fill().into_future()).await.unwrap(), (5, 2));

    // From outside, by the actor's name.
    assert_eq!((fruit.len().await, tools.len().await), (Ok(5), Ok(2)));
    assert_eq!(tools.get::<String>("saw").await.unwrap().as_deref(), Some("sharp"));
    assert_eq!(fruit.get::<u32>("saw").await, Ok(None));
    assert!(fruit.contains("lime").await.unwrap() && !tools.contains("lime").await.unwrap());
    let some = fruit.get_many(&["lime", "saw"]).await.unwrap();
    assert_eq!(some.into_keys().collect::<Vec<_>>(), ["lime"]);
    let own = actor.committed_state().await.unwrap();
    assert_eq!(own.into_keys().collect::<Vec<_>>(), ["fig", "fruit"]);
    assert_eq!(actor.committed::<String>("fig").await.unwrap().as_deref(), Some("own"));
    let other = client.actor("Shop", "another").committed_sub_map("fruit");
    assert_eq!(other.len().await, Ok(0));

    assert_eq!(bounded(shop.sell("fig".into()).into_future()).await.unwrap(), 4);
    assert_eq!(keys(&fruit).await, ["apple", "lime", "pear", "Äpfel"]);
    bounded(shop.burn().into_future()).await.unwrap_err();
    assert_eq!((fruit.len().await, actor.committed_sub_map("ashes").len().await), (Ok(4), Ok(0)));
    assert!(bounded(shop.close("fruit".into()).into_future()).await.unwrap());
    assert_eq!((fruit.len().await, tools.len().await), (Ok(0), Ok(2)));
    bounded(shop.clear().into_future()).await.unwrap();
    assert_eq!((tools.len().await, fake.actor_keys("Shop", "s").len()), (Ok(0), 0));
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn entries_come_by_pages_when_they_are_wanted() {
    let fake = Fake::start().await;
    let (_host, client) = shop(&fake).await;
    bounded(ShopClient::new(&client, "s").fill().into_future()).await.unwrap();
    let fruit = client.actor("Shop", "s").committed_sub_map("fruit");
    let page = fruit.list(2, "").await.unwrap();
    let first = page.entries.iter().map(|(key, value)| (key.as_str(), value.to_string()));
    assert_eq!(first.collect::<Vec<_>>(), [("apple", "2".to_owned()), ("fig", "1".to_owned())]);
    let page = fruit.list(2, &page.next.unwrap()).await.unwrap();
    let page = fruit.list(2, &page.next.unwrap()).await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.next), ("Äpfel", None));

    let listings = |fake: &Fake| {
        let log = fake.log().into_iter();
        log.filter_map(|what| what.strip_prefix("list ").map(str::to_owned)).skip(3)
    };
    // The fake gives three at most, whatever is asked for: that is not the end.
    let mut entries = fruit.entries().page_size(50);
    let (key, value) = bounded(entries.next()).await.unwrap().unwrap();
    assert_eq!((key.as_str(), u32::decode(value)), ("apple", Ok(2)));
    assert_eq!(bounded(entries.up_to(2)).await.unwrap().len(), 2);
    assert_eq!(listings(&fake).count(), 1, "no page is asked for before it is wanted");
    let rest = bounded(entries.up_to(9)).await.unwrap();
    assert_eq!(rest.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["pear", "Äpfel"]);
    assert_eq!(bounded(entries.next()).await, Ok(None));
    assert_eq!(listings(&fake).collect::<Vec<_>>(), [r#"50 after """#, r#"50 after "lime""#]);
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_key_is_set_only_if_it_holds_what_is_expected() {
    let fake = Fake::start().await;
    let (_host, client) = shop(&fake).await;
    let shop = ShopClient::new(&client, "s");
    let done = bounded(shop.set_if("k".into()).into_future()).await.unwrap();
    let own = [false, false, true, true];
    assert_eq!(done, [&own[..], &[false, true, true, false], &[false, true]].concat());
    let actor = client.actor("Shop", "s");
    let plain = actor.committed::<Payload>("k").await.unwrap().unwrap();
    assert_eq!(plain, Payload::new("text/plain", "2"));
    assert_eq!(actor.committed("new").await, Ok(Some(3)));
    let map = actor.committed_sub_map("map");
    assert_eq!((map.get("k").await, map.get("new").await), (Ok(Some(20)), Ok(Some(30))));
    // The gathered ones together, each condition with its change.
    let applied: Vec<_> = fake.log().into_iter().filter(|what| what.starts_with("apply")).collect();
    assert_eq!(applied, ["apply 2"; 11]);
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_refusal_is_no_condition_that_does_not_hold() {
    let fake = Fake::start().await;
    fake.refuse_applies();
    let (_host, client) = shop(&fake).await;
    let error = ShopClient::new(&client, "s").claim().await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "limit", "{error}");
}

#[tokio::test]
async fn names_are_checked_before_anything_is_sent() {
    let fake = Fake::start().await;
    let (_host, client) = shop(&fake).await;
    let shop = ShopClient::new(&client, "s");
    let long = "ö".repeat(257);
    for (name, what) in [
        ("", "has 1 to 512 bytes, this has 0"),
        (long.as_str(), "has 1 to 512 bytes, this has 514"),
        ("a\0b", "has no U+0000, this has one at byte 1: separate its parts otherwise"),
    ] {
        let key = format!("key: a key {what}");
        let refused = shop.misname(("map".into(), name.into())).await.unwrap();
        assert_eq!((refused.len(), refused.iter().all(|text| *text == key)), (12, true));
        let map = format!("sub_map: a sub-map's name {what}");
        let refused = shop.misname((name.into(), "key".into())).await.unwrap();
        assert_eq!((refused.len(), refused.iter().all(|text| *text == map)), (11, true));
        let actor = client.actor("Shop", "s");
        assert_eq!(refusal(actor.committed::<u32>(name).await), key);
        let refused = refusals_of_reads(&actor.committed_sub_map("map"), name).await;
        assert_eq!(refused, [key.as_str(); 3]);
        let refused = refusals_of_reads(&actor.committed_sub_map(name), "key").await;
        assert_eq!(refused, [map.as_str(); 7]);
    }
    let asks = |word: &String| ["get", "apply", "list"].iter().any(|what| word.starts_with(what));
    assert!(!fake.log().iter().any(asks), "{:?}", fake.log());
    assert_eq!(fake.violations(), [""; 0]);
    // The application's keys have no such rule.
    client.state().set("a\0b", &1).await.unwrap();
}
