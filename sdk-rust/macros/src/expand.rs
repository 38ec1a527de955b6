//! Writes the code: the block itself, the trait of the runtime, and the typed client.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::Result;
use syn::spanned::Spanned as _;

use crate::parse::{Block, Kind, Method, parse};

/// Expands an attribute on a block.
pub(crate) fn expand(kind: Kind, attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let block = parse(kind, attribute, item)?;
    let item = &block.item;
    let runtime = runtime(kind, &block);
    let client = client(kind, &block);
    Ok(quote! { #item #runtime #client })
}

fn runtime(kind: Kind, block: &Block) -> TokenStream {
    let (the_trait, context) = match kind {
        Kind::Service => (quote!(Service), quote!(ServiceContext)),
        Kind::Actor => (quote!(Actor), quote!(ActorContext)),
    };
    let (ty, name) = (&block.item.self_ty, &block.name);
    let listed = block.methods.iter().map(|method| {
        let name = &method.name;
        let how = if method.shared { quote!(shared) } else { quote!(exclusive) };
        let retry = method.retry.as_ref().map(|policy| {
            // Spanned, so that what is no policy is what the compiler points at.
            quote_spanned!(policy.span()=> .retry(#policy))
        });
        quote!(::kar_sdk::Method::#how(#name) #retry)
    });
    let arms = block.methods.iter().map(|method| {
        let (name, function) = (&method.name, &method.function);
        let (read, pass) = match &method.argument {
            None => (quote!(let _ = argument;), quote!()),
            Some((_, ty)) => (
                // Spanned, so that a type that cannot travel is what the compiler points at.
                quote_spanned!(ty.span()=>
                    let argument = ::kar_sdk::private::argument::<#ty>(context, argument)?;
                ),
                quote!(, argument),
            ),
        };
        quote! {
            #name => ::core::option::Option::Some(::std::boxed::Box::pin(async move {
                #read
                ::kar_sdk::private::result(self.#function(context #pass).await)
            })),
        }
    });
    let hook = block.deactivate.as_ref().map(|function| {
        quote! {
            const DEACTIVATES: bool = true;

            fn deactivate<'a>(
                &'a self,
                context: &'a mut ::kar_sdk::#context,
            ) -> ::kar_sdk::MethodFuture<'a> {
                ::std::boxed::Box::pin(async move {
                    ::kar_sdk::private::result(self.#function(context).await)
                })
            }
        }
    });
    quote! {
        impl ::kar_sdk::#the_trait for #ty {
            const NAME: &'static str = #name;
            const METHODS: &'static [::kar_sdk::Method] = &[#(#listed),*];
            #hook

            fn dispatch<'a>(
                &'a self,
                context: &'a mut ::kar_sdk::#context,
                method: &'a str,
                argument: ::kar_sdk::Payload,
            ) -> ::core::option::Option<::kar_sdk::MethodFuture<'a>> {
                match method {
                    #(#arms)*
                    _ => ::core::option::Option::None,
                }
            }
        }
    }
}

fn client(kind: Kind, block: &Block) -> TokenStream {
    let client = format_ident!("{}Client", block.type_name);
    let name = &block.name;
    let (reference, parameters, make, what) = match kind {
        Kind::Service => (
            quote!(::kar_sdk::ServiceRef<S>),
            quote!(),
            quote!(::kar_sdk::Caller::service(caller, #name)),
            format!("Typed client of the service `{name}`."),
        ),
        Kind::Actor => (
            quote!(::kar_sdk::ActorRef<S>),
            quote!(, id: impl ::core::convert::Into<::std::string::String>),
            quote!(::kar_sdk::Caller::actor(caller, #name, id)),
            format!("Typed client of an actor of the type `{name}`."),
        ),
    };
    let methods = block.methods.iter().map(client_method);
    quote! {
        #[doc = #what]
        #[allow(dead_code, unreachable_pub, private_interfaces, missing_debug_implementations)]
        #[derive(Clone)]
        pub struct #client<S> {
            inner: #reference,
        }

        #[allow(dead_code, unreachable_pub, private_interfaces, private_bounds)]
        impl<S: 'static> #client<S> {
            /// For calls from a client, or from a turn's context.
            pub fn new<C: ::kar_sdk::Caller<Scope = S> + ?Sized>(caller: &C #parameters) -> Self {
                Self { inner: #make }
            }

            #(#methods)*
        }
    }
}

fn client_method(method: &Method) -> TokenStream {
    let Method { function, name, argument, output, docs, .. } = method;
    let docs = match docs.as_slice() {
        [] => {
            let text = format!("Calls `{name}`.");
            quote!(#[doc = #text])
        }
        docs => quote!(#(#docs)*),
    };
    let name = quote!(::std::borrow::Cow::Borrowed(#name));
    let output = quote!(<#output as ::kar_sdk::private::MethodResult>::Output);
    let (parameter, encoded) = match argument {
        None => (quote!(), quote!(::core::result::Result::Ok(::kar_sdk::private::nothing()))),
        Some((argument, ty)) => {
            let encode = quote_spanned!(ty.span()=> ::kar_sdk::Encode::encode);
            (quote!(, #argument: #ty), quote!(#encode(&#argument)))
        }
    };
    quote! {
        #docs
        pub fn #function(&self #parameter) -> ::kar_sdk::Call<#output, S> {
            self.inner.invocation(#name, #encoded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the macro says to a block that it refuses.
    fn refusal(kind: Kind, attribute: TokenStream, item: TokenStream) -> String {
        expand(kind, attribute, item).expect_err("refused").to_string()
    }

    fn actor(body: TokenStream) -> String {
        refusal(Kind::Actor, quote!(), quote!(impl Account { #body }))
    }

    #[test]
    fn a_good_block_becomes_trait_and_client() {
        let block = quote! {
            impl Account {
                /// Puts money in.
                async fn deposit(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
                    todo()
                }
                #[kar(name = "balance.now", shared, retry = RetryPolicy::attempts(3))]
                async fn balance(&self, _: &ActorContext) -> Result<i64, Error> { todo() }
                #[kar(deactivate)]
                async fn rest(&self, ctx: &mut ActorContext) -> Result<(), Error> { todo() }
            }
        };
        let code = expand(Kind::Actor, quote!(name = "acc"), block).expect("good").to_string();
        let file: syn::File = syn::parse_str(&code).expect("is Rust");
        assert_eq!(file.items.len(), 4, "the block, the trait, the client and its methods");
        for part in [
            "impl :: kar_sdk :: Actor for Account",
            "const NAME : & 'static str = \"acc\"",
            "Method :: exclusive (\"deposit\")",
            "Method :: shared (\"balance.now\") . retry (RetryPolicy :: attempts (3))",
            "const DEACTIVATES : bool = true",
            "self . rest (context)",
            "pub struct AccountClient < S >",
            "pub fn deposit (& self , amount : i64)",
        ] {
            assert!(code.contains(part), "{part} not in {code}");
        }
        assert!(!code.contains("# [kar"), "our own attributes are gone");
        assert!(!code.contains("\"rest\""), "what nobody calls is no method");
    }

    #[test]
    fn refuses_other_items() {
        let text = refusal(
            Kind::Service,
            quote!(),
            quote!(
                struct Greeter;
            ),
        );
        assert_eq!(text, "#[kar_sdk::service] goes on an `impl` block of a type");
        let text = refusal(Kind::Actor, quote!(), quote!(impl Clone for A {}));
        assert_eq!(text, "#[kar_sdk::actor] goes on a plain `impl` block, not on that of a trait");
        let text = refusal(
            Kind::Actor,
            quote!(),
            quote!(
                impl<T> A<T> {}
            ),
        );
        assert_eq!(text, "a hosted type cannot be generic: its name has to stand for one thing");
        let text = refusal(Kind::Actor, quote!(), quote!(impl A<u8> {}));
        assert_eq!(text, "the type must be a plain name, without arguments");
        assert_eq!(actor(quote!()), "this block has no methods to host");
        let text = actor(quote!(
            const X: u8 = 1;
        ));
        assert_eq!(
            text,
            "only methods belong into this block; put helpers into another `impl` block"
        );
    }

    #[test]
    fn refuses_other_options_and_names() {
        let block = || quote!(impl A { async fn f(&self, c: &mut C) -> R {} });
        let text = refusal(Kind::Service, quote!(id = 1), block());
        assert_eq!(text, "the only option is the name: `#[kar_sdk::service(name = \"…\")]`");
        for bad in [quote!(name = ""), quote!(name = "a b"), quote!(name = "-a")] {
            let text = refusal(Kind::Service, bad, block());
            assert!(text.starts_with("a name has 1 to 128 of "), "{text}");
        }
        let text = actor(quote!(
            #[kar(read)]
            async fn f(&self, c: &mut C) -> R {}
        ));
        let known = "`name = \"…\"`, `shared`, `deactivate` and `retry = RetryPolicy::attempts(…)`";
        assert_eq!(text, format!("a method has the options {known}"));
        let hook = || {
            quote!(
                #[kar(deactivate)]
                async fn f(&self, c: &mut C) -> R {}
            )
        };
        let block = hook();
        let text = refusal(Kind::Service, quote!(), quote!(impl A { #block }));
        assert_eq!(text, "only actors are deactivated");
        let (first, second) = (hook(), hook());
        assert_eq!(actor(quote!(#first #second)), "there are two methods marked `deactivate`");
        for hook in [
            quote!(
                #[kar(deactivate)]
                async fn f(&self, c: &mut C, a: u8) -> R {}
            ),
            quote!(
                #[kar(deactivate, name = "g")]
                async fn f(&self, c: &mut C) -> R {}
            ),
            quote!(
                #[kar(deactivate, shared)]
                async fn f(&self, c: &mut C) -> R {}
            ),
        ] {
            let text = "a method marked `deactivate` takes no argument, and has no other option";
            assert_eq!(actor(hook), text);
        }
    }

    #[test]
    fn refuses_functions_that_are_no_methods() {
        let text = actor(quote!(
            fn f(&self, c: &mut C) -> R {}
        ));
        assert_eq!(text, "a method must be `async`; put helpers into another `impl` block");
        let text = actor(quote!(
            async fn f<T>(&self, c: &mut C, t: T) -> R {}
        ));
        assert_eq!(text, "a method cannot be generic: what travels has one type");
        for receiver in [quote!(&mut self), quote!(self), quote!(x: u8)] {
            let text = actor(quote!(async fn f(#receiver, c: &mut C) -> R {}));
            assert!(text.starts_with("a method takes `&self`: one value serves all"), "{text}");
        }
        for context in [quote!(), quote!(amount: i64)] {
            let text = actor(quote!(async fn f(&self, #context) -> R {}));
            assert_eq!(text, "after `&self` a method takes `ctx: &mut ActorContext`");
        }
        let text = actor(quote!(
            async fn f(&self, c: &mut C, a: u8, b: u8) -> R {}
        ));
        assert_eq!(
            text,
            "a method takes at most one argument after the context: make one struct of several \
             values"
        );
        let text = actor(quote!(
            async fn f(&self, c: &mut C, a: &str) -> R {}
        ));
        assert!(text.starts_with("the argument must be of an owned type"), "{text}");
        let text = actor(quote!(
            async fn f(&self, c: &mut C) {}
        ));
        assert_eq!(
            text,
            "a method must return `Result<T, E>`, for example `Result<(), kar_sdk::Error>`"
        );
        let text = actor(quote!(
            #[kar(name = "g")]
            async fn f(&self, c: &mut C) -> R {}
            async fn g(&self, c: &mut C) -> R {}
        ));
        assert_eq!(text, "there are two methods called `g`");
    }
}
