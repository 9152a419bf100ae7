//! Cuts the wire for workers of a faulty node, which have given up the right to.
//!
//! In: a worker's wish. Out: the wire is cut when the answer comes. On a thread of its own that was started before the node, and
//! keeps the rights this executable was started with.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use crate::harness::fabric;

/// Where wishes go, each with where the answer is awaited.
static WISHES: OnceLock<Sender<Sender<()>>> = OnceLock::new();

/// Starts the thread.
pub fn start() {
    let (wishes, wished) = channel::<Sender<()>>();
    std::thread::spawn(move || {
        for done in wished {
            fabric::devices().expect("this test is of RDMA devices").wire("cut");
            // Whoever wished it may have ended.
            let _ = done.send(());
        }
    });
    WISHES.set(wishes).expect("one node a process");
}

/// Cuts the wire, and waits for it.
pub fn cut() {
    let (done, is_done) = channel();
    WISHES.get().expect("it was started").send(done).expect("the thread runs");
    is_done.recv().expect("the wire is cut");
}
