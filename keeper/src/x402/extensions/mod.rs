//! Extensions of the protocol that go with a payment: what the server declared and the client sent back.

pub mod bazaar;
pub mod identifier;
pub mod receipt;
mod schema;
