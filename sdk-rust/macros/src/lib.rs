//! The attribute macros of the KAR Rust SDK, [`macro@service`] and [`macro@actor`]. Use them
//! through `kar_sdk`, whose documentation shows them at work.

mod expand;
mod parse;

use proc_macro::TokenStream;

use crate::parse::Kind;

/// Makes a service of an `impl` block: every function in it is a method.
///
/// ```text
/// #[kar_sdk::service(name = "greeter")] // without a name it is that of the type
/// impl Greeter {
///     async fn hello(&self, ctx: &mut ServiceContext, who: Person) -> Result<Greeting, Error> { ..
///     }
/// }
/// ```
///
/// A method is `async`, takes `&self`, a context (`&mut ServiceContext` or `&ServiceContext`), and
/// at most one argument of an owned type that serde can read; it returns a `Result`. `#[kar(name =
/// "…")]` on a method gives it another name, `#[kar(shared)]` says that it only reads, and
/// `#[kar(retry = RetryPolicy::attempts(5))]` (any constant expression) how its errors are retried that
/// it marks retryable, unless a call says otherwise. Helper functions belong into another `impl` block.
///
/// Besides implementing `kar_sdk::Service`, this makes a typed client:
/// `GreeterClient::new(&caller)`, where the caller is a `kar_sdk::Client` or a turn's context.
#[proc_macro_attribute]
pub fn service(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(Kind::Service, attribute, item)
}

/// Makes an actor type of an `impl` block: every function in it is a method. As [`macro@service`],
/// with an `ActorContext`; its client is `AccountClient::new(&caller, id)`.
///
/// `#[kar(deactivate)]` marks a function that is no method: it is called, as a turn, when an instance
/// has been idle and is about to be passive (`actor-idle-ms` of its sidecar).
#[proc_macro_attribute]
pub fn actor(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(Kind::Actor, attribute, item)
}

fn expand(kind: Kind, attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = proc_macro2::TokenStream::from(item);
    match expand::expand(kind, attribute.into(), item.clone()) {
        Ok(tokens) => tokens.into(),
        Err(error) => {
            // The block itself stays, so that one mistake doesn't make its functions unknown
            // everywhere.
            let mut tokens = parse::without_method_attributes(item);
            tokens.extend(error.to_compile_error());
            tokens.into()
        }
    }
}
