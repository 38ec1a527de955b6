//! Reads the `impl` block and says what is wrong with it.

use proc_macro2::{Span, TokenStream};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser as _;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, Expr, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Pat, Result,
    ReturnType, Type,
};

/// Longest name of a service or an actor type.
const NAME_BYTES_MAX: usize = 128;

/// What the block is to become.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    Actor,
}

/// A block that can become one.
pub(crate) struct Block {
    /// As written, without the attributes that are ours.
    pub(crate) item: ItemImpl,
    /// The type's own name.
    pub(crate) type_name: Ident,
    /// The name that it is hosted under.
    pub(crate) name: String,
    pub(crate) methods: Vec<Method>,
    /// What is called when an instance is about to be passive.
    pub(crate) deactivate: Option<Ident>,
}

/// A method.
pub(crate) struct Method {
    pub(crate) function: Ident,
    pub(crate) name: String,
    pub(crate) shared: bool,
    /// It is no method: the instance is about to be passive.
    pub(crate) deactivate: bool,
    /// Its retry policy, a constant expression.
    pub(crate) retry: Option<Expr>,
    /// Name and type of the argument, if there is one.
    pub(crate) argument: Option<(Ident, Type)>,
    pub(crate) output: Type,
    /// Its documentation.
    pub(crate) docs: Vec<Attribute>,
}

impl Kind {
    /// As the attribute is written.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            Self::Service => "#[kar_sdk::service]",
            Self::Actor => "#[kar_sdk::actor]",
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Service => "ctx: &mut ServiceContext",
            Self::Actor => "ctx: &mut ActorContext",
        }
    }
}

/// Reads attribute and block.
pub(crate) fn parse(kind: Kind, attribute: TokenStream, item: TokenStream) -> Result<Block> {
    let mut item: ItemImpl = syn::parse2(item).map_err(|e| {
        Error::new(e.span(), format!("{} goes on an `impl` block of a type", kind.attribute()))
    })?;
    if let Some((_, path, _)) = &item.trait_ {
        let text =
            format!("{} goes on a plain `impl` block, not on that of a trait", kind.attribute());
        return Err(Error::new(path.span(), text));
    }
    if !item.generics.params.is_empty() {
        let text = "a hosted type cannot be generic: its name has to stand for one thing";
        return Err(Error::new(item.generics.span(), text));
    }
    let type_name = type_name(&item.self_ty)?;
    let name = block_name(kind, attribute)?.unwrap_or_else(|| type_name.to_string());
    let mut methods: Vec<Method> = Vec::new();
    let mut deactivate = None;
    for member in &mut item.items {
        let ImplItem::Fn(function) = member else {
            let text = format!("only methods belong into this block; {HELPERS}");
            return Err(Error::new(member.span(), text));
        };
        let method = method(kind, function)?;
        if method.deactivate {
            check_hook(kind, &method, deactivate.is_some())?;
            deactivate = Some(method.function);
            continue;
        }
        if methods.iter().any(|other| other.name == method.name) {
            let text = format!("there are two methods called `{}`", method.name);
            return Err(Error::new(function.sig.ident.span(), text));
        }
        methods.push(method);
    }
    if methods.is_empty() {
        return Err(Error::new(item.self_ty.span(), "this block has no methods to host"));
    }
    Ok(Block { item, type_name, name, methods, deactivate })
}

/// What is called when an instance is about to be passive: by nobody else, so it takes no argument.
fn check_hook(kind: Kind, method: &Method, is_second: bool) -> Result<()> {
    let text = if kind != Kind::Actor {
        "only actors are deactivated"
    } else if is_second {
        "there are two methods marked `deactivate`"
    } else if method.argument.is_some() || method.shared || method.retry.is_some() {
        HOOK
    } else {
        return Ok(());
    };
    Err(Error::new(method.function.span(), text))
}

const HOOK: &str = "a method marked `deactivate` takes no argument, and has no other option";
const HELPERS: &str = "put helpers into another `impl` block";

/// Takes our own attributes off the functions of a block that cannot be expanded.
pub(crate) fn without_method_attributes(item: TokenStream) -> TokenStream {
    let Ok(mut block) = syn::parse2::<ItemImpl>(item.clone()) else { return item };
    for member in &mut block.items {
        if let ImplItem::Fn(function) = member {
            function.attrs.retain(|attribute| !attribute.path().is_ident("kar"));
        }
    }
    quote::ToTokens::to_token_stream(&block)
}

fn type_name(ty: &Type) -> Result<Ident> {
    match ty {
        Type::Path(path) if path.qself.is_none() => match path.path.segments.last() {
            Some(segment) if segment.arguments.is_none() => Ok(segment.ident.clone()),
            _ => Err(Error::new(ty.span(), "the type must be a plain name, without arguments")),
        },
        _ => Err(Error::new(ty.span(), "the type must be a plain name")),
    }
}

fn block_name(kind: Kind, attribute: TokenStream) -> Result<Option<String>> {
    let mut name = None;
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("name") {
            name = Some(name_value(&meta)?);
            return Ok(());
        }
        let known = kind.attribute().replace(']', "(name = \"…\")]");
        Err(meta.error(format!("the only option is the name: `{known}`")))
    });
    parser.parse2(attribute)?;
    Ok(name)
}

fn name_value(meta: &ParseNestedMeta<'_>) -> Result<String> {
    let text: LitStr = meta.value()?.parse()?;
    let name = text.value();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let starts = name.starts_with(['.', '-']);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || starts || !name.chars().all(legal) {
        let rule = "a name has 1 to 128 of `A-Z a-z 0-9 _ - .` and doesn't start with `.` or `-`";
        return Err(Error::new(text.span(), rule));
    }
    Ok(name)
}

fn method(kind: Kind, function: &mut ImplItemFn) -> Result<Method> {
    let Options { name, shared, deactivate, retry } = method_attributes(function)?;
    let signature = &function.sig;
    if deactivate && name.is_some() {
        return Err(Error::new(signature.ident.span(), HOOK));
    }
    let at = |span: Span, text: String| Err(Error::new(span, text));
    if signature.asyncness.is_none() {
        return at(signature.span(), format!("a method must be `async`; {HELPERS}"));
    }
    if !signature.generics.params.is_empty() {
        let text = "a method cannot be generic: what travels has one type".to_owned();
        return at(signature.generics.span(), text);
    }
    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(receiver))
            if receiver.reference.is_some() && receiver.mutability.is_none() => {}
        other => {
            let span = other.map_or(signature.ident.span(), syn::spanned::Spanned::span);
            let text = "a method takes `&self`: one value serves all turns; \
                        what an actor remembers is in `ctx.state()`";
            return at(span, text.to_owned());
        }
    }
    match inputs.next() {
        Some(FnArg::Typed(context)) if matches!(*context.ty, Type::Reference(_)) => {}
        other => {
            let span = other.map_or(signature.ident.span(), syn::spanned::Spanned::span);
            return at(span, format!("after `&self` a method takes `{}`", kind.context()));
        }
    }
    let argument = inputs.next().map(argument).transpose()?;
    if let Some(extra) = inputs.next() {
        let text = "a method takes at most one argument after the context: \
                    make one struct of several values";
        return at(extra.span(), text.to_owned());
    }
    let ReturnType::Type(_, output) = &signature.output else {
        let text = "a method must return `Result<T, E>`, for example `Result<(), kar_sdk::Error>`";
        return at(signature.ident.span(), text.to_owned());
    };
    let docs = function.attrs.iter().filter(|a| a.path().is_ident("doc")).cloned().collect();
    let function = signature.ident.clone();
    let name = name.unwrap_or_else(|| function.to_string().trim_start_matches("r#").to_owned());
    let output = (**output).clone();
    Ok(Method { function, name, shared, deactivate, retry, argument, output, docs })
}

fn argument(input: &FnArg) -> Result<(Ident, Type)> {
    let FnArg::Typed(typed) = input else {
        return Err(Error::new(input.span(), "`self` comes first"));
    };
    if matches!(*typed.ty, Type::Reference(_) | Type::ImplTrait(_)) {
        let text = "the argument must be of an owned type: it is read from what was sent \
                    (`String`, not `&str`)";
        return Err(Error::new(typed.ty.span(), text));
    }
    let name = match &*typed.pat {
        Pat::Ident(name) => {
            Ident::new(name.ident.to_string().trim_start_matches('_'), name.ident.span())
        }
        other => Ident::new("argument", other.span()),
    };
    Ok((name, (*typed.ty).clone()))
}

/// What `#[kar(…)]` says of a method.
#[derive(Default)]
struct Options {
    name: Option<String>,
    shared: bool,
    deactivate: bool,
    retry: Option<Expr>,
}

/// Takes `#[kar(…)]` off a function.
fn method_attributes(function: &mut ImplItemFn) -> Result<Options> {
    let mut options = Options::default();
    for attribute in function.attrs.iter().filter(|a| a.path().is_ident("kar")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                options.name = Some(name_value(&meta)?);
                Ok(())
            } else if meta.path.is_ident("shared") {
                options.shared = true;
                Ok(())
            } else if meta.path.is_ident("deactivate") {
                options.deactivate = true;
                Ok(())
            } else if meta.path.is_ident("retry") {
                options.retry = Some(meta.value()?.parse()?);
                Ok(())
            } else {
                let known =
                    "`name = \"…\"`, `shared`, `deactivate` and `retry = RetryPolicy::attempts(…)`";
                Err(meta.error(format!("a method has the options {known}")))
            }
        })?;
    }
    function.attrs.retain(|attribute| !attribute.path().is_ident("kar"));
    Ok(options)
}
