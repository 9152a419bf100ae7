//! The control thread's runtime: one thread of tokio, on which the admin socket and the links to peers live, and the
//! signals that end the node. In: a future to run. Out: its end, after SIGINT or SIGTERM.

use std::future::Future;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

/// The runtime, with the signals that end the node already caught.
pub struct Control {
    runtime: Runtime,
    signals: Signals,
}

/// The signals that end a node.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Waits for one.
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Control {
    /// From here on SIGINT and SIGTERM end what [`run`](Control::run) runs instead of the process, so this comes before
    /// the node says that it is ready.
    ///
    /// # Errors
    /// The system refuses what a runtime needs.
    pub fn start() -> anyhow::Result<Control> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start the control thread")?;
        let entered = runtime.enter();
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        drop(entered);
        Ok(Control { runtime, signals })
    }

    /// Runs what needs the runtime to be there, such as listening.
    pub fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.runtime.enter();
        make()
    }

    /// Runs `main`, which is handed the signals, to its end; tasks it has spawned locally end with it.
    pub fn run<F: Future<Output = ()>>(self, main: impl FnOnce(Signals) -> F) {
        let tasks = LocalSet::new();
        tasks.block_on(&self.runtime, main(self.signals));
    }
}
