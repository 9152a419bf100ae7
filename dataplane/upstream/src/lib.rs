//! The application as a reverse proxy: requests go to HTTP/1.1 origin servers over kernel sockets, and their replies come
//! back as they come.
//!
//! It runs on app threads, each with its own connections (`hyper` on a runtime of its own); never inside a worker, which must
//! not make system calls. A reply is read as fast as its client takes it, a request's body as
//! fast as its origin does.
//!
//! - [`Upstream`]: the application
//! - [`options`]: what an upstream is, and every bound
//! - [`run`]: the loop of an app thread
//! - [`tally`]: what is counted

#![forbid(unsafe_code)]

mod app;
mod connect;
mod failure;
mod fields;
mod health;
mod incoming;
mod outgoing;
mod pipe;
mod pool;
mod proxy_protocol;
mod run;
mod tunnel;

pub mod options;
pub mod tally;

pub use app::{Task, Upstream};
pub use options::{Address, Forwarded, Health, Options, SERVERS_MAX};
pub use run::{Beside, run};
pub use tally::Tally;
