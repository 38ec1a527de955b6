//! The conventions of the contract, checked from its descriptors: every `kar.*` package, every element.

use std::collections::BTreeMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor, ServiceDescriptor,
};

/// Field number of `package` in `google.protobuf.FileDescriptorProto`: its place in source info.
const PACKAGE_PATH: &[i32] = &[2];

fn pool() -> DescriptorPool {
    DescriptorPool::decode(kar_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set is sound")
}

/// The files that are ours: all but the imports from Google.
fn files(pool: &DescriptorPool) -> impl Iterator<Item = FileDescriptor> + '_ {
    pool.files().filter(|f| f.package_name().starts_with("kar."))
}

fn services(pool: &DescriptorPool) -> impl Iterator<Item = ServiceDescriptor> + '_ {
    pool.services().filter(|s| s.package_name().starts_with("kar."))
}

fn messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> + '_ {
    pool.all_messages().filter(|m| m.package_name().starts_with("kar.") && !m.is_map_entry())
}

fn enums(pool: &DescriptorPool) -> impl Iterator<Item = EnumDescriptor> + '_ {
    pool.all_enums().filter(|e| e.package_name().starts_with("kar."))
}

/// Fails with every finding at once.
fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{} {what}:\n  {}", findings.len(), findings.join("\n  "));
}

/// Whether the element at `path` has a comment in its own words: before it, or behind it on its line.
fn has_comment(file: &FileDescriptor, path: &[i32]) -> bool {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    info.into_iter().flat_map(|i| &i.location).filter(|l| l.path == path).any(|location| {
        [location.leading_comments(), location.trailing_comments()]
            .iter()
            .any(|comment| says_something(comment))
    })
}

/// At least two words, or the name in code of what it stands for, with an end as sentences have it: a name that is
/// said again, or one word, is no comment.
fn says_something(comment: &str) -> bool {
    let comment = comment.trim();
    let words = comment.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic));
    comment.ends_with(['.', ':', ')', '…']) && (words.count() >= 2 || comment.starts_with('`'))
}

#[test]
fn a_comment_is_a_sentence_or_names_what_it_stands_for() {
    for good in [" Why it ended.\n", " `EventService.Publish`.", " … with all below this one …"]
    {
        assert!(says_something(good), "{good}");
    }
    for bad in ["", " Name.", " later", " the name of the topic", " --- 1 ---."] {
        assert!(!says_something(bad), "{bad}");
    }
}

/// `InvocationMode` → `INVOCATION_MODE`.
fn upper_snake(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[test]
fn the_contract_is_all_there() {
    let pool = pool();
    for package in ["kar.v1", "kar.log.v1", "kar.peer.v1", "kar.hub.v1"] {
        assert!(files(&pool).any(|f| f.package_name() == package), "package {package} is missing");
    }
    let names: Vec<_> = services(&pool).map(|s| s.full_name().to_owned()).collect();
    for service in ["Invocation", "Component", "ActorState", "State", "Reminder", "Event", "System"]
    {
        let name = format!("kar.v1.{service}Service");
        assert!(names.contains(&name), "service {name} is missing; there are {names:?}");
    }
}

#[test]
fn a_package_is_its_folder_and_ends_in_a_version() {
    let pool = pool();
    let mut findings = Vec::new();
    for file in files(&pool) {
        let package = file.package_name();
        let folder = file.name().rsplit_once('/').map_or("", |(folder, _)| folder);
        if folder.replace('/', ".") != package {
            findings.push(format!("{}: package {package} is not its folder", file.name()));
        }
        let version = package.rsplit('.').next().unwrap_or("");
        let digits = version.strip_prefix('v').unwrap_or("");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            findings.push(format!("{}: package {package} has no version", file.name()));
        }
    }
    assert_none("packages", &findings);
}

#[test]
fn every_rpc_has_a_request_and_a_response_of_its_own_named_after_it() {
    let pool = pool();
    let mut findings = Vec::new();
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in services(&pool) {
        if !service.name().ends_with("Service") {
            findings.push(format!("{}: must end in Service", service.full_name()));
        }
        for rpc in service.methods() {
            for (message, suffix) in [(rpc.input(), "Request"), (rpc.output(), "Response")] {
                let short = format!("{}{suffix}", rpc.name());
                let long = format!("{}{short}", service.name());
                if message.name() != short && message.name() != long {
                    let (rpc, name) = (rpc.full_name(), message.name());
                    findings.push(format!("{rpc}: takes {name}, want {short} or {long}"));
                }
                let users = users.entry(message.full_name().to_owned()).or_default();
                users.push(rpc.full_name().to_owned());
            }
        }
    }
    for (message, users) in users.iter().filter(|(_, users)| users.len() > 1) {
        findings.push(format!("{message}: shared by {users:?}"));
    }
    assert_none("requests and responses", &findings);
}

#[test]
fn enum_values_carry_their_enums_name_and_zero_is_unspecified() {
    let pool = pool();
    let mut findings = Vec::new();
    for item in enums(&pool) {
        let prefix = upper_snake(item.name());
        for value in item.values() {
            let unspecified = value.name() == format!("{prefix}_UNSPECIFIED");
            if !value.name().starts_with(&format!("{prefix}_")) {
                findings.push(format!("{}: lacks the prefix {prefix}_", value.full_name()));
            } else if unspecified != (value.number() == 0) {
                findings.push(format!("{}: zero must be _UNSPECIFIED", value.full_name()));
            }
        }
    }
    assert_none("enum values", &findings);
}

#[test]
fn every_element_has_a_comment() {
    let pool = pool();
    let mut findings = Vec::new();
    let mut check = |file: FileDescriptor, name: &str, path: &[i32]| {
        if !has_comment(&file, path) {
            findings.push(format!("{}: {name}", file.name()));
        }
    };
    for message in messages(&pool) {
        check(message.parent_file(), message.full_name(), message.path());
        for field in message.fields() {
            check(field.parent_file(), field.full_name(), field.path());
        }
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            check(oneof.parent_file(), oneof.full_name(), oneof.path());
        }
    }
    for item in enums(&pool) {
        check(item.parent_file(), item.full_name(), item.path());
        for value in item.values() {
            check(value.parent_file(), value.full_name(), value.path());
        }
    }
    for service in services(&pool) {
        check(service.parent_file(), service.full_name(), service.path());
        for rpc in service.methods() {
            check(rpc.parent_file(), rpc.full_name(), rpc.path());
        }
    }
    assert_none("elements without a comment", &findings);
}

#[test]
fn every_package_says_what_it_is() {
    let pool = pool();
    let mut packages: BTreeMap<String, bool> = BTreeMap::new();
    for file in files(&pool) {
        let commented = packages.entry(file.package_name().to_owned()).or_default();
        *commented |= has_comment(&file, PACKAGE_PATH);
    }
    let findings: Vec<_> = packages.into_iter().filter(|(_, c)| !c).map(|(p, _)| p).collect();
    assert_none("packages without a comment above `package`", &findings);
}

#[test]
fn field_names_are_snake_case() {
    let pool = pool();
    let mut findings = Vec::new();
    for message in messages(&pool) {
        for field in message.fields() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if !field.name().chars().all(plain) {
                findings.push(format!("{}: not snake_case", field.full_name()));
            }
        }
    }
    assert_none("field names", &findings);
}

/// Words of Python, JavaScript, Java and Rust that the public contract must not use as names of fields: some generators
/// rename such fields, some leave them out of their type hints, and none lets people write them plainly.
#[rustfmt::skip] // One word a line would be a page.
const RESERVED: &[&str] = &[
    "and", "as", "assert", "async", "await", "break", "case", "catch", "class", "const",
    "continue", "def", "default", "del", "delete", "do", "elif", "else", "enum", "except",
    "export", "extends", "false", "final", "finally", "fn", "for", "from", "function", "global",
    "goto", "if", "impl", "implements", "import", "in", "instanceof", "interface", "is",
    "lambda", "let", "match", "mod", "move", "mut", "new", "nonlocal", "not", "null", "or",
    "package", "pass", "private", "protected", "pub", "public", "raise", "ref", "return",
    "self", "static", "struct", "super", "switch", "this", "throw", "throws", "trait", "true",
    "try", "typeof", "unsafe", "use", "var", "void", "where", "while", "with", "yield",
];

#[test]
fn field_names_are_no_reserved_words() {
    let pool = pool();
    let public = messages(&pool).filter(|m| m.package_name() == "kar.v1");
    let fields = public.flat_map(|m| m.fields().collect::<Vec<_>>());
    let findings: Vec<_> = fields
        .filter(|field| RESERVED.contains(&field.name()))
        .map(|field| field.full_name().to_owned())
        .collect();
    assert_none("fields named by a reserved word of some language", &findings);
}

#[test]
fn every_operation_of_the_component_stream_is_a_unary_request() {
    // One vocabulary: what a stream can ask for is exactly what a unary RPC takes, and the answers pair up.
    let pool = pool();
    let message = |name: &str| pool.get_message_by_name(name).expect("it is part of the contract");
    let (request, response) = (message("kar.v1.Request"), message("kar.v1.Response"));
    let rpcs: Vec<_> = services(&pool).flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
    let mut findings = Vec::new();
    for oneof in request.oneofs() {
        for field in oneof.fields() {
            let kind = field.kind();
            let input = kind.as_message().map(MessageDescriptor::full_name);
            let rpc = rpcs.iter().find(|rpc| Some(rpc.input().full_name()) == input);
            let answer = response.get_field_by_name(field.name()).map(|f| f.kind());
            let output = answer.as_ref().and_then(|k| k.as_message()).map(|m| m.full_name());
            if rpc.is_none()
                || rpc.map(|rpc| rpc.output()).map(|m| m.full_name().to_owned())
                    != output.map(str::to_owned)
            {
                findings.push(field.full_name().to_owned());
            }
        }
    }
    assert_none("operations without their unary twin", &findings);
}

/// RPCs of `kar.v1` that are no operations of the component's stream, and why.
const UNARY_ONLY: &[(&str, &str)] = &[
    ("ComponentService.Connect", "it is the stream"),
    ("EventService.Consume", "a stream of its own"),
    ("SystemService.WatchTopology", "a stream of its own"),
    ("InvocationService.GetInvocation", "for operators: no turn decides by it"),
    ("InvocationService.ListInvocations", "for operators: no turn decides by it"),
    ("InvocationService.ListDeadLetters", "for operators: no turn decides by it"),
    ("SystemService.GetInfo", "for operators: no turn decides by it"),
    ("SystemService.ListNodes", "for operators: no turn decides by it"),
    ("SystemService.ListActors", "for operators: no turn decides by it"),
    ("SystemService.Drain", "it ends what the stream is for"),
    ("SystemService.Shutdown", "it ends what the stream is for"),
];

#[test]
fn every_unary_request_is_an_operation_of_the_component_stream_but_for_named_exceptions() {
    let pool = pool();
    let request = pool.get_message_by_name("kar.v1.Request").expect("it is in the contract");
    let operations: Vec<String> = request
        .oneofs()
        .flat_map(|oneof| oneof.fields().collect::<Vec<_>>())
        .filter_map(|field| Some(field.kind().as_message()?.full_name().to_owned()))
        .collect();
    let mut findings = Vec::new();
    let mut seen = 0;
    for service in services(&pool).filter(|service| service.package_name() == "kar.v1") {
        for rpc in service.methods() {
            let name = format!("{}.{}", service.name(), rpc.name());
            let is_excepted = UNARY_ONLY.iter().any(|(excepted, _)| *excepted == name);
            seen += usize::from(is_excepted);
            match (operations.iter().any(|op| op == rpc.input().full_name()), is_excepted) {
                (false, false) => findings.push(format!("{name}: no operation, and no exception")),
                (true, true) => findings.push(format!("{name}: an operation, and an exception")),
                _ => {}
            }
        }
    }
    assert_none("unary requests", &findings);
    assert_eq!(seen, UNARY_ONLY.len(), "an exception is for an RPC that does not exist");
}
