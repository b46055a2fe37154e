//! What the tests and the demo run against.

pub mod infisical;
