//! Calls the service `greeter` and prints the greeting:
//!
//! ```text
//! kar run --app hello -- cargo run --example hello_client Alan
//! ```

use kar_sdk::Kar;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "world".to_owned());
    let kar = Kar::connect().await?;
    let greeting: String = kar.service("greeter").call("hello", &json!({ "name": name })).await?;
    println!("{greeting}");
    Ok(())
}
