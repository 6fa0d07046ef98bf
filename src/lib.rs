//! rekeyd rotates database credentials and API keys, proves the old ones dead, and records it in Git.
//!
//! Data flows one way. In reading order:
//!
//! 1. [`ident`], [`secret`], [`failure`], [`clock`]: the vocabulary.
//! 2. [`policy`], [`schedule`], [`settings`], [`template`]: what is to happen, and when.
//! 3. [`rotation`]: the protocol. Its documentation has the invariants and the steps.
//! 4. [`target`], [`store`], [`consumer`], [`ledger`]: the systems that a rotation touches, one trait each; and
//!    what some of them share: `kubernetes`, `rollout`, `git`, `vault`, `aws`, `reach`, `http`, `tls`, `copies`.
//! 5. [`adapters`], [`service`], [`status`]: the protocol for those who ask.
//! 6. [`daemon`], [`cli`], [`telemetry`]: who asks, and who is told.

#[macro_use]
mod marks;

pub mod adapters;
mod aws;
pub mod cli;
pub mod clock;
pub mod consumer;
pub mod copies;
pub mod daemon;
pub mod failure;
mod git;
pub mod http;
pub mod ident;
pub mod kubernetes;
mod leader;
pub mod ledger;
pub mod policy;
#[cfg(feature = "proving")]
pub mod proving;
mod reach;
pub mod recipe;
mod rollout;
pub mod rotation;
pub mod schedule;
pub mod schema;
pub mod secret;
pub mod service;
pub mod settings;
pub mod status;
pub mod store;
pub mod target;
pub mod telemetry;
pub mod template;
mod tls;
mod vault;
