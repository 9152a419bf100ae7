//! What links rest on, read anew. In: the table in effect, and the one of the file. Out: another trust, named as changes are. Blocks.

use super::Outcome;
use crate::config::{Change, Changes, Cluster};
use crate::links::Trust;

/// Whose links they are.
pub(super) struct Ends<'a> {
    /// Its name in effect, and its table.
    pub(super) now: (&'a str, Option<&'a Cluster>),
    /// As the file has them.
    pub(super) new: (&'a str, Option<&'a Cluster>),
}

/// Reads certificates and key, where links may rest on those of the file. `None`: they are those in effect.
///
/// # Errors
/// They cannot be used: they have changed since the file was checked.
pub(super) fn renew(
    ends: &Ends<'_>,
    trust: Option<&Trust>,
    changes: &mut Changes,
    warnings: &mut Vec<String>,
) -> Result<Option<Trust>, Outcome> {
    fn files(cluster: &Cluster) -> [&std::path::PathBuf; 3] {
        [&cluster.ca, &cluster.certificate, &cluster.key]
    }
    let ((name, Some(cluster)), (new_name, Some(new)), Some(trust)) = (ends.now, ends.new, trust) else {
        return Ok(None);
    };
    // Those that wait for a restart are not looked at: what is in effect stays as it is.
    if name != new_name || files(cluster) != files(new) {
        return Ok(None);
    }
    let renewed = cluster.trust(name);
    let renewed = renewed.map_err(|error| Outcome::refused(format!("nothing was applied: {error}")))?;
    if let Some(warning) = renewed.warning() {
        warnings.push(format!("peers will refuse {}: it {warning}", cluster.certificate.display()));
    }
    let mut note = |is_same: bool, key: &str| {
        let change = Change { table: "[cluster]", key: key.to_owned() };
        if !is_same && !changes.applied.contains(&change) {
            changes.applied.push(change);
        }
        !is_same
    };
    let is_other = note(trust.has_same_authority(&renewed), "ca");
    Ok((note(trust.has_same_certificate(&renewed), "certificate") || is_other).then_some(renewed))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca;

    #[test]
    fn files_that_have_gone_since_they_were_checked_are_told() {
        let folder = tempfile::tempdir().unwrap();
        ca::init(folder.path(), 1).unwrap();
        ca::node(folder.path(), &["a".to_owned()], 1).unwrap();
        let at = |name: &str| folder.path().join(name);
        let cluster = Cluster {
            ca: at("ca.pem"),
            certificate: at("a.pem"),
            key: at("a.key"),
            listen: Vec::new(),
            heartbeat_timeout: Duration::from_secs(3),
            distributors: Vec::new(),
            etcd: None,
        };
        let trust = cluster.trust("a").unwrap();
        std::fs::remove_file(at("a.pem")).unwrap();
        let ends = Ends { now: ("a", Some(&cluster)), new: ("a", Some(&cluster)) };
        let renewed = renew(&ends, Some(&trust), &mut Changes::default(), &mut Vec::new());
        let Err(Outcome::Refused { error, .. }) = renewed else { panic!("it is refused") };
        assert!(
            error.starts_with("nothing was applied: ") && error.contains("a.pem cannot be read"),
            "{error}"
        );
    }
}
