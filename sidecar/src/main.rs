//! kar
fn main(){}
