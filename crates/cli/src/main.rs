//! rustane
fn main() {}
