//! Rust: the SDK's examples.

use kar_tests::binaries;

use crate::language::{Language, word};

pub(crate) const RUST: Language = Language {
    name: "rust",
    host: || vec![word(&binaries::example("hello"))],
    client: || vec![word(&binaries::example("hello_client"))],
};
