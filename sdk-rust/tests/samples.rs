//! The bank on a fake sidecar.
#![cfg(feature = "samples")]

mod common;

use std::time::Duration;

use common::Fake;
use kar_sdk::samples::bank::{AccountClient, LoadOptions, Parts, TellerClient, Transfer, load};
use kar_sdk::samples::order::{self, Refusals};
use kar_sdk::{Host, Kar};

#[tokio::test]
async fn the_books_balance() {
    let fake = Fake::start().await;
    let host = Parts::Both.host(Host::builder()).socket(&fake.socket).start().await.unwrap();
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let options = LoadOptions { transfers: 300, accounts: 10, ..LoadOptions::default() };
    let report = load(&client, &options).await.unwrap();
    assert!(report.balanced, "{report:?}");
    assert_eq!((report.sum_before, report.sum_after), (10_000, 10_000));
    assert_eq!((report.done, report.refused, report.errors, report.unknown), (300, 0, 0, 0));
    assert_eq!(options.progress.finished(), 300);

    let poor = Transfer { id: "p".into(), from: "poor".into(), to: "a1".into(), amount: 7 };
    let refused = TellerClient::new(&client).transfer(poor).await.unwrap_err();
    assert_eq!(refused.to_string(), "insufficient_funds: 0 is too little to pay 7");
    let account = AccountClient::new(&client, "a1");
    let before = account.balance().await.unwrap();
    assert_eq!(account.deposit(5).await.unwrap(), before + 5);
    assert_eq!(account.withdraw(5).await.unwrap(), before);
    assert!(account.withdraw(0).await.is_err());
    assert_eq!(fake.violations(), [""; 0]);
    drop(host);
}

#[tokio::test]
async fn a_failed_transfer_is_given_back_for_good() {
    let fake = Fake::start().await;
    let host = Parts::Both.host(Host::builder()).socket(&fake.socket).start().await.unwrap();
    let client = host.client();
    AccountClient::new(&client, "payer").open(100).await.unwrap();
    AccountClient::new(&client, "full").open(i64::MAX).await.unwrap();
    let order = Transfer { id: "x".into(), from: "payer".into(), to: "full".into(), amount: 7 };
    let teller = TellerClient::new(&client);
    let error = teller.transfer(order.clone()).await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "overflow");
    let payer = AccountClient::new(&client, "payer").audit().await.unwrap();
    assert_eq!((payer.balance, payer.notes.len()), (100, 2));
    // What a teller that was cut off would do: it must not pay out what was given back.
    AccountClient::new(&client, "full").withdraw(1000).await.unwrap();
    let error = teller.transfer(order).await.unwrap_err();
    assert_eq!(error.to_string(), "given_back: x has failed before");
}

#[tokio::test]
async fn orders_are_carried_out_completely_or_not_at_all() {
    let fake = Fake::start().await;
    let host = order::Parts::Both.host(Host::builder()).socket(&fake.socket).start().await.unwrap();
    let options =
        order::ShopOptions { orders: 100, number: Duration::ZERO, ..order::ShopOptions::default() };
    let report = order::shop(&host.client(), options).await.unwrap();
    assert!(report.right, "{report:?}");
    let Refusals { sold_out, declined, no_route } = report.rejected;
    assert!(report.confirmed > 0 && sold_out > 0 && declined > 0 && no_route > 0, "{report:?}");
    assert_eq!(report.confirmed + sold_out + declined + no_route, 100);
    assert_eq!(fake.violations(), [""; 0]);
}
