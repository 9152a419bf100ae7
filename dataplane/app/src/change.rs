//! What becomes of an application while it runs, between two of its requests: made by whoever holds the configuration, carried to
//! the thread that owns the application, and done there.

use std::any::Any;

use crate::App;

/// What is to be done with an application, whichever it is.
type What = dyn FnOnce(&mut dyn Any) + Send;

/// One change of one application, on its way to it.
pub struct Change(Box<What>);

impl Change {
    /// What is to be done with the application: requests that begin behind it find it done, those under way go on.
    pub fn of<A: App>(what: impl FnOnce(&mut A) + Send + 'static) -> Change {
        Change(Box::new(move |app: &mut dyn Any| {
            what(app.downcast_mut().expect("a change is for applications of its type"));
        }))
    }

    /// Does it.
    pub(crate) fn apply<A: App>(self, app: &mut A) {
        (self.0)(app);
    }
}
