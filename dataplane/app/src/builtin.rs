//! The applications that come with keyferry, as one type for the executable.

use std::task::Poll;

use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

use crate::static_files::{self, Static};
use crate::synthetic::{self, Synthetic};
use crate::{App, Body, Shared};

/// One of the built-in applications.
pub enum Builtin {
    /// Replies of a given cost and size.
    Synthetic(Synthetic),
    /// The files of a directory.
    Static(Static),
}

/// One reply of either.
pub enum Task {
    /// Of [`Synthetic`].
    Synthetic(synthetic::Task),
    /// Of [`Static`].
    Static(static_files::Task),
}

impl App for Builtin {
    type Task = Task;

    fn begin(&mut self, request: &Request, now: Time) -> Task {
        match self {
            Builtin::Synthetic(app) => Task::Synthetic(app.begin(request, now)),
            Builtin::Static(app) => Task::Static(app.begin(request, now)),
        }
    }

    fn head(&mut self, task: &mut Task, request: &Request, now: Time) -> Poll<ReplyHead> {
        match (self, task) {
            (Builtin::Synthetic(app), Task::Synthetic(task)) => app.head(task, request, now),
            (Builtin::Static(app), Task::Static(task)) => app.head(task, request, now),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn body(&mut self, task: &mut Task, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        match (self, task) {
            (Builtin::Synthetic(app), Task::Synthetic(task)) => app.body(task, request, now, out),
            (Builtin::Static(app), Task::Static(task)) => app.body(task, request, now, out),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn share(&mut self, task: &mut Task, request: &Request, bytes_max: usize) -> Option<Shared> {
        match (self, task) {
            (Builtin::Static(app), Task::Static(task)) => app.share(task, request, bytes_max),
            _ => None,
        }
    }

    fn deadline(&self, task: &Task) -> Option<Time> {
        match (self, task) {
            (Builtin::Synthetic(app), Task::Synthetic(task)) => app.deadline(task),
            _ => None,
        }
    }
}
