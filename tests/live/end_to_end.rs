//! The shipped binary on real servers, as a user runs it: what each command says and answers, and that
//! nothing is lost whatever happens.

mod adoption;
mod commands;
mod consumers;
mod daemon;
mod database;
mod durability;
mod first_steps;
mod killed;
mod leaks;
mod ledgers;
mod metrics;
mod midway;
mod shapes;
mod socket;
mod stores;
mod verification;

use std::sync::Arc;

use rekeyd::secret::Credential;
use serde_json::{Value, json};

use crate::gate::Gate;
use crate::installation::{Installation, NOBODY, chown, read};
use crate::openbao;
use crate::postgres_support::{World, credential_of, soon, text};
use crate::processes::Answer;
use crate::site::*;
