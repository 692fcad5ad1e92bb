//! accctl
fn main() {}
