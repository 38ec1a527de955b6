//! Sub-maps and conditions of actors' state in Rust.

use std::future::IntoFuture;

use kar_sdk::{
    ActorContext, CallError, Client, Decode as _, Error, Host, Page, Payload, SubMapReader,
};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, process, test};

/// More than one page of the longest.
const MANY: u64 = 2_300;

/// An actor with shelves.
struct Shop;

#[kar_sdk::actor]
impl Shop {
    /// Puts things on two shelves, and what is named as one of them beside these.
    async fn fill(&self, ctx: &mut ActorContext) -> Result<Vec<String>, Error> {
        let state = ctx.state();
        let (fruit, tools) = (state.sub_map("fruit"), state.sub_map("tools"));
        for (at, kind) in ["pear", "fig", "Äpfel", "figs", "Fig"].iter().enumerate() {
            fruit.set(kind, &at)?;
        }
        tools.set("fig", "a wrench")?;
        tools.set("saw", "sharp")?;
        state.set("fig", "own")?;
        state.set("fruit", "own, too")?;
        assert_eq!(fruit.get("fig").await?, Some(1));
        assert_eq!(tools.get::<String>("fig").await?.as_deref(), Some("a wrench"));
        assert_eq!(state.get::<String>("fig").await?.as_deref(), Some("own"));
        assert!(tools.contains("saw").await? && !fruit.contains("saw").await?);
        assert!(!state.contains("saw").await?);
        let some = tools.get_many(&["saw", "pear"]).await?;
        assert_eq!(some.into_keys().collect::<Vec<_>>(), ["saw"]);
        assert_eq!((fruit.len().await?, tools.len().await?), (5, 2));
        assert_eq!(state.get_all().await?.into_keys().collect::<Vec<_>>(), ["fig", "fruit"]);
        pages(&fruit, 2).await
    }

    /// Changes what is committed, and lists it before that is.
    async fn sell(&self, ctx: &mut ActorContext) -> Result<Vec<String>, Error> {
        let fruit = ctx.state().sub_map("fruit");
        fruit.remove("fig")?;
        fruit.remove("not there")?;
        fruit.set("Fig", &70)?;
        fruit.set("grape", &7)?;
        assert_eq!((fruit.len().await?, fruit.get("Fig").await?), (5, Some(70)));
        pages(&fruit, 2).await
    }

    async fn burn(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        let fruit = ctx.state().sub_map("fruit");
        fruit.clear()?;
        ctx.state().sub_map("ashes").set("all", &true)?;
        assert!(fruit.is_empty().await? && fruit.get::<u32>("pear").await?.is_none());
        Err(Error::new("burnt", "down"))
    }

    /// Clears a shelf, and puts one thing there.
    async fn renew(&self, ctx: &mut ActorContext) -> Result<Vec<String>, Error> {
        let fruit = ctx.state().sub_map("fruit");
        fruit.clear()?;
        fruit.set("kiwi", &1)?;
        pages(&fruit, 0).await
    }

    async fn stock(&self, ctx: &mut ActorContext, many: u64) -> Result<u64, Error> {
        let stock = ctx.state().sub_map("stock");
        for n in 0..many {
            stock.set(&format!("{n:05}"), &n)?;
        }
        Ok(stock.len().await?)
    }

    async fn clear(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.state().clear()?)
    }

    /// Takes it over from whom it belongs to, in own keys and a sub-map alike.
    async fn claim(
        &self,
        ctx: &mut ActorContext,
        (from, to): (Option<String>, String),
    ) -> Result<(bool, bool), Error> {
        let (state, owners) = (ctx.state(), ctx.state().sub_map("owners"));
        let claimed = state.compare_and_set("owner", from.as_ref(), &to).await?;
        Ok((claimed, owners.compare_and_set("owner", from.as_ref(), &to).await?))
    }

    /// Conditions see what the same turn has written, and compare types of content.
    async fn conditions(&self, ctx: &mut ActorContext) -> Result<Vec<bool>, Error> {
        let map = ctx.state().sub_map("map");
        map.set("k", &1)?;
        let mut held = vec![
            map.compare_and_set("k", Some(&2), &3).await?,
            map.compare_and_set("k", Some(&1), &2).await?,
        ];
        let as_read = map.get::<Payload>("k").await?;
        let other = Payload::new("text/plain", "2");
        held.push(map.compare_and_set("k", Some(&other), &other).await?);
        held.push(map.compare_and_set("k", as_read.as_ref(), &other).await?);
        map.remove("k")?;
        held.push(map.compare_and_set("k", Some(&other), &other).await?);
        held.push(map.compare_and_set("k", None, &9).await?);
        Ok(held)
    }

    #[kar(shared)]
    async fn look(&self, ctx: &mut ActorContext) -> Result<u64, Error> {
        Ok(ctx.state().sub_map("fruit").len().await?)
    }

    #[kar(shared)]
    async fn steal(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.state().sub_map("fruit").remove("pear")?)
    }

    #[kar(shared)]
    async fn usurp(&self, ctx: &mut ActorContext) -> Result<bool, Error> {
        Ok(ctx.state().compare_and_set("owner", None, "me").await?)
    }

    async fn misname(
        &self,
        ctx: &mut ActorContext,
        (name, key): (String, String),
    ) -> Result<(), Error> {
        Ok(ctx.state().sub_map(name).set(&key, &1)?)
    }
}

/// The keys of a sub-map, by pages of at most so many.
async fn pages(map: &SubMapReader<'_>, size: u32) -> Result<Vec<String>, Error> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let Page { entries, next } = map.list(size, &after).await?;
        assert!(size == 0 || entries.len() <= size as usize, "{} of {size}", entries.len());
        keys.extend(entries.into_iter().map(|(key, _)| key));
        match next {
            Some(next) => after = next,
            None => return Ok(keys),
        }
    }
}

async fn hosted(node: &Node) -> (Host, Client) {
    let host = Host::builder().actor(Shop).socket(&node.socket).start().await.expect("hosted");
    let client = host.client();
    (host, client)
}

/// What is committed of a sub-map of the shop.
fn shelf(client: &Client, name: &str) -> SubMapReader<'static> {
    client.actor("Shop", "s").committed_sub_map(name)
}

async fn size(client: &Client, name: &str) -> u64 {
    shelf(client, name).len().await.expect("counted")
}

#[test]
fn sub_maps_are_kept_apart_and_listed_in_byte_order() {
    test(async {
        let world = World::new("sdkmaps");
        let node = world.bare("a").await;
        let (_host, client) = hosted(&node).await;
        let shop = ShopClient::new(&client, "s");
        assert_eq!(size(&client, "fruit").await, 0, "what does not exist has no entries");
        let filled = shop.fill().await.expect("filled");
        assert_eq!(filled, ["Fig", "fig", "figs", "pear", "Äpfel"]);
        assert_eq!(pages(&shelf(&client, "fruit"), 2).await.expect("listed"), filled);
        let own = client.actor("Shop", "s").committed_state().await.expect("read");
        assert_eq!(own.into_keys().collect::<Vec<_>>(), ["fig", "fruit"]);
        let wrench = shelf(&client, "tools").get::<String>("fig").await.expect("read");
        assert_eq!(wrench.as_deref(), Some("a wrench"));
        let sold = shop.sell().await.expect("sold");
        assert_eq!(sold, ["Fig", "figs", "grape", "pear", "Äpfel"]);
        let committed = shelf(&client, "fruit").entries().up_to(99).await.expect("listed");
        let committed: Vec<_> = committed
            .into_iter()
            .map(|(key, value)| (key, u32::decode(value).expect("a number")))
            .collect();
        let values = [70, 3, 7, 0, 2];
        assert_eq!(committed, sold.into_iter().zip(values).collect::<Vec<_>>());

        let burnt = shop.burn().await.expect_err("it fails");
        assert_eq!(burnt.application().expect("its own").code, "burnt");
        let sizes = (size(&client, "fruit").await, size(&client, "ashes").await);
        assert_eq!(sizes, (5, 0), "what a turn that failed did is dropped");
        assert_eq!(shop.look().await.expect("shared methods read"), 5);
        for refused in [shop.steal().await.map(drop), shop.usurp().await.map(drop)] {
            let refused = refused.expect_err("shared methods only read");
            assert!(refused.to_string().contains("SHARED_TURN"), "{refused}");
        }
        assert_eq!(shop.renew().await.expect("renewed"), ["kiwi"]);
        let sizes = (size(&client, "fruit").await, size(&client, "tools").await);
        assert_eq!(sizes, (1, 2), "no other shelf was cleared");
        shop.clear().await.expect("cleared");
        let sizes = (size(&client, "fruit").await, size(&client, "tools").await);
        assert_eq!(sizes, (0, 0));
    });
}

#[test]
fn sub_maps_survive_the_death_of_everything() {
    test(async {
        let world = World::new("sdkmapskill");
        let mut node = world.bare("a").await;
        let (host, client) = hosted(&node).await;
        let shop = ShopClient::new(&client, "s");
        shop.fill().await.expect("filled");
        assert_eq!(shop.sell().await.expect("sold").len(), 5);
        assert_eq!(shop.stock(MANY).await.expect("stocked"), MANY);
        shop.claim((None, "alice".into())).await.expect("claimed");
        let other = ShopClient::new(&client, "other");
        other.fill().await.expect("filled");
        assert_eq!(other.renew().await.expect("renewed"), ["kiwi"]);
        drop((host, client));
        process::kill(world.hub().await);
        node.kill_sidecar();
        node.ended(READY_LIMIT).await;

        let node = world.bare("b").await;
        let (_host, client) = hosted(&node).await;
        let fruit = pages(&shelf(&client, "fruit"), 2).await.expect("listed");
        assert_eq!(fruit, ["Fig", "figs", "grape", "pear", "Äpfel"]);
        assert_eq!(shelf(&client, "fruit").get("Fig").await, Ok(Some(70)));
        assert_eq!((size(&client, "tools").await, size(&client, "owners").await), (2, 1));
        let stock = shelf(&client, "stock");
        assert_eq!(stock.len().await, Ok(MANY));
        let page = stock.list(5_000, "").await.expect("listed");
        assert!(page.entries.len() <= 1_000 && page.next.is_some(), "{}", page.entries.len());
        let all = stock.entries().page_size(1_000).up_to(usize::MAX).await.expect("listed");
        let wanted = (0..MANY).map(|n| format!("{n:05}"));
        assert!(all.into_iter().map(|(key, _)| key).eq(wanted), "each one, in order");
        let other = client.actor("Shop", "other").committed_sub_map("fruit");
        assert_eq!(pages(&other, 2).await.expect("listed"), ["kiwi"], "what was cleared stays so");
        // … and a turn sees the same.
        let shop = ShopClient::new(&client, "s");
        let next = shop.claim((Some("alice".into()), "bob".into())).await.expect("claimed");
        assert_eq!(next, (true, true));
        assert_eq!(shop.renew().await.expect("renewed"), ["kiwi"]);
        assert_eq!((size(&client, "fruit").await, size(&client, "stock").await), (1, MANY));
    });
}

#[test]
fn a_key_is_set_only_if_it_holds_what_is_expected() {
    test(async {
        let world = World::new("sdkcas");
        let node = world.bare("a").await;
        let (_host, client) = hosted(&node).await;
        let shop = ShopClient::new(&client, "s");
        let claim = |from: Option<&str>, to: &str| {
            shop.claim((from.map(str::to_owned), to.to_owned())).into_future()
        };
        assert_eq!(claim(Some("alice"), "bob").await.expect("asked"), (false, false));
        assert!(size(&client, "owners").await == 0, "nothing was changed");
        assert_eq!(claim(None, "alice").await.expect("asked"), (true, true));
        assert_eq!(claim(None, "carol").await.expect("asked"), (false, false));
        assert_eq!(claim(Some("alice"), "bob").await.expect("asked"), (true, true));
        assert_eq!(claim(Some("alice"), "carol").await.expect("asked"), (false, false));
        let actor = client.actor("Shop", "s");
        let owners = [
            actor.committed::<String>("owner").await.expect("read"),
            shelf(&client, "owners").get("owner").await.expect("read"),
        ];
        assert_eq!(owners, ["bob", "bob"].map(|name| Some(name.to_owned())));
        let held = shop.conditions().await.expect("asked");
        assert_eq!(held, [false, true, false, true, false, true]);
        assert_eq!(shelf(&client, "map").get("k").await, Ok(Some(9)));
    });
}

#[test]
fn names_that_are_none_are_told_by_their_field() {
    test(async {
        let world = World::new("sdknames");
        let node = world.bare("a").await;
        let (_host, client) = hosted(&node).await;
        let shop = ShopClient::new(&client, "s");
        let long = "k".repeat(512);
        shop.misname((long.clone(), long)).await.expect("512 bytes are allowed");
        let wrong = [String::new(), "k".repeat(513), "a\0b".to_owned()];
        for name in wrong {
            for (of, what) in [
                ((name.clone(), "k".to_owned()), "sub-map's name"),
                (("m".to_owned(), name), "key"),
            ] {
                let error = shop.misname(of.clone()).await.expect_err("it is none");
                assert!(error.to_string().contains(&format!("a {what} has")), "{error}");
                let map = client.actor("Shop", "s").committed_sub_map(of.0);
                let error = map.get::<u32>(&of.1).await;
                assert!(
                    matches!(&error, Err(CallError::Rejected(r)) if r.reason == "INVALID_FIELD"),
                    "{error:?}"
                );
            }
        }
        assert_eq!(size(&client, "m").await, 0);
    });
}
