//! Ready-made components, for examples, tests and `kar demo`. Behind the feature `samples`.

pub mod bank;
pub mod order;
pub mod orders;
pub mod philosophers;
