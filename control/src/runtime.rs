//! The control thread's runtime: one thread of tokio, on which the admin socket and the links to peers live, and the
//! signals that end the node or have it read its file again. In: a future to run. Out: its end, after SIGINT or SIGTERM.

use std::future::Future;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;

/// The runtime, with the signals of an operator already caught.
pub struct Control {
    runtime: Runtime,
    signals: Signals,
}

/// The signals of an operator.
pub struct Signals {
    /// Those that end it.
    pub ends: Ends,
    /// The one that has it read its file again.
    pub hangups: Hangups,
}

/// The signals that end a node.
pub struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

/// The signal for another file.
pub struct Hangups(Signal);

impl Hangups {
    /// Waits for one; of several that have come meanwhile it is the last.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

impl Ends {
    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

impl Control {
    /// From here on SIGHUP ends nothing, and SIGINT and SIGTERM end what [`run`](Control::run) runs instead of the process, so this comes before
    /// the node says that it is ready.
    ///
    /// # Errors
    /// The system refuses what a runtime needs.
    pub fn start() -> anyhow::Result<Control> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start the control thread")?;
        let entered = runtime.enter();
        let ends =
            Ends { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
        let signals = Signals { ends, hangups: Hangups(signal(SignalKind::hangup())?) };
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
