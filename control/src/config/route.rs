//! `[[route]]`: which requests go to which application, where it is not that of `[app]`.

use super::app::Named;
use super::reader::Section;
use super::upstream::{host, path};

/// Routes of a node, at most.
pub const APP_ROUTES_MAX: usize = 256;

/// Which requests go to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Of this host alone, in lower case.
    pub host: Option<String>,
    /// Whose path is this or lies below it.
    pub path_prefix: String,
    /// The application.
    pub app: Named,
}

/// A route before its application is known.
pub(super) struct Draft {
    host: Option<String>,
    path_prefix: String,
    app: String,
}

pub(super) fn read(mut section: Section<'_, '_>) -> Option<Draft> {
    let host_given = section.parsed("host", "a host in quotes", host);
    let path_prefix = section.parsed("path_prefix", "a path in quotes, such as \"/files\"", path);
    let wants = "\"static\", \"synthetic\" or the name of an [[upstream]]";
    let app: Option<String> = section.value("app", wants);
    let app = section.required("app", app, wants);
    if !section.is_set("host") && !section.is_set("path_prefix") && app.is_some() {
        section
            .report("app", "this route is for every request: add host or path_prefix, or write it in [app]");
    }
    section.finish();
    Some(Draft { host: host_given, path_prefix: path_prefix.unwrap_or_else(|| "/".to_owned()), app: app? })
}

impl Route {
    /// Which requests it is for, as reloads call it: no other has the same.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.host.as_deref().unwrap_or_default(), self.path_prefix)
    }
}

impl Draft {
    /// What it names as its application.
    pub(super) fn app(&self) -> &str {
        &self.app
    }

    /// With its application.
    pub(super) fn finish(self, app: Named) -> Route {
        Route { host: self.host, path_prefix: self.path_prefix, app }
    }

    /// Whether another is for the same requests.
    pub(super) fn is_like(&self, other: &Draft) -> bool {
        (&self.host, &self.path_prefix) == (&other.host, &other.path_prefix)
    }
}
