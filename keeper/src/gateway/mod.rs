//! What OpenGradient's gateways say to their facilitator: proofs (`/settle_data`) and heartbeats. Reading and checking is pure;
//! the registry's nodes are a snapshot; proofs that name no payment are joined to one later, where there is one.

pub mod beat;
pub mod item;
pub mod join;
pub mod tees;
