//! What the usual tools do to files, and what is seen of it.

use std::fs;
use std::os::unix::fs::symlink;

use keyferry_tls::{Fragment, Resumption, ServerOptions};
use notify::event::{CreateKind, ModifyKind, RenameMode};

use super::*;

/// A certificate and its key in PEM.
fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn within<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

fn server(pairs: &[(PathBuf, PathBuf)]) -> Server {
    let certificates = pairs.iter().map(|(chain, key)| read(chain, key).unwrap().0).collect();
    Server::new(&ServerOptions {
        certificates,
        tls12: true,
        tls13: true,
        resumption: Resumption::Off,
        suites: None,
        fragment: Fragment::MAX,
        key_log: None,
    })
    .unwrap()
}

fn of(files: &[&Path]) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    files.iter().for_each(|file| folders_of(file, &mut all));
    all
}

#[test]
fn every_folder_counts_in_which_a_name_may_lead_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |path: &str| root.join(path);
    for path in ["archive/x", "live/x", "secret/..1", "secret/..2"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    // certbot: a link to a numbered file elsewhere.
    fs::write(at("archive/x/cert1.pem"), "").unwrap();
    symlink("../../archive/x/cert1.pem", at("live/x/cert.pem")).unwrap();
    assert_eq!(of(&[&at("live/x/cert.pem")]), BTreeSet::from([at("live/x"), at("archive/x")]));
    // Kubernetes: a link to a link to a folder, which is swapped.
    fs::write(at("secret/..1/tls.crt"), "").unwrap();
    symlink("..1", at("secret/..data")).unwrap();
    symlink("..data/tls.crt", at("secret/tls.crt")).unwrap();
    assert_eq!(of(&[&at("secret/tls.crt")]), BTreeSet::from([at("secret"), at("secret/..1")]));
    // What is not there may come; a circle leads nowhere.
    assert_eq!(of(&[&at("live/x/none.pem")]), BTreeSet::from([at("live/x")]));
    symlink(at("b"), at("a")).unwrap();
    symlink(at("a"), at("b")).unwrap();
    assert_eq!(of(&[&at("a")]), BTreeSet::from([root.clone()]));
}

#[test]
fn to_read_is_no_news() {
    assert!(!is_news(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(!is_news(&EventKind::Access(AccessKind::Close(AccessMode::Read))));
    assert!(is_news(&EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(is_news(&EventKind::Create(CreateKind::File)));
    assert!(is_news(&EventKind::Modify(ModifyKind::Name(RenameMode::To))));
}

#[test]
fn what_tools_do_to_files_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |path: &str| root.join(path);
    fs::create_dir(at("..1")).unwrap();
    fs::create_dir(at("..2")).unwrap();
    fs::write(at("..1/tls.crt"), "1").unwrap();
    fs::write(at("..2/tls.crt"), "2").unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/tls.crt", at("tls.crt")).unwrap();
    fs::write(at("plain.pem"), "1").unwrap();
    let files = [at("tls.crt"), at("plain.pem")];
    let folders = || of(&[&files[0], &files[1]]);
    within(async {
        let news = Arc::new(Notify::new());
        let mut watch = Watch::new(&news);
        let mut told = async |what: &str, change: &dyn Fn()| {
            watch.set(&folders());
            change();
            // Far less than the time after which it is looked in any case.
            let told = timeout(EVERY / 3, watch.changed()).await;
            assert!(told.is_ok(), "{what}");
        };
        told("renamed into place", &|| {
            fs::write(at("new"), "2").unwrap();
            fs::rename(at("new"), at("plain.pem")).unwrap();
        })
        .await;
        told("written in place", &|| fs::write(at("plain.pem"), "3").unwrap()).await;
        told("a link swapped", &|| {
            symlink("..2", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        })
        .await;
        assert!(folders().contains(&at("..2")));
        told("written where the link leads now", &|| fs::write(at("..2/tls.crt"), "4").unwrap()).await;
        told("somebody else's word", &|| news.notify_one()).await;
    });
}

#[test]
fn pairs_that_fit_are_taken_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, folder.path().join(name)).unwrap();
    };
    let path = |name: &str| folder.path().join(name);
    let pairs: Vec<_> = ["a", "b"].map(|it| (path(&format!("{it}.pem")), path(&format!("{it}.key")))).into();
    for name in ["a", "b"] {
        let (chain, key) = pair(name);
        write(&format!("{name}.pem"), &chain);
        write(&format!("{name}.key"), &key);
    }
    let first = server(&pairs);
    let wanted = Wanted { pairs: pairs.clone(), links: None };
    let mut files = Files::default();
    let found = files.look(&wanted, Some(&first), None);
    assert!(found.server.is_none() && found.taken.is_empty() && found.refused.is_empty());

    // Half of the one, all of the other: the one waits.
    let [(a_chain, a_key), (b_chain, b_key)] = ["a", "b"].map(pair);
    write("a.pem", &a_chain);
    write("b.pem", &b_chain);
    write("b.key", &b_key);
    let found = files.look(&wanted, Some(&first), None);
    let second = found.server.expect("b is whole");
    assert_eq!(found.taken.iter().map(|facts| facts.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(
        matches!(&found.refused[..], [sentence] if sentence.contains("another certificate")),
        "{:?}",
        found.refused
    );
    assert_eq!(second.certificates()[0], first.certificates()[0]);
    assert_ne!(second.certificates()[1], first.certificates()[1]);

    // Nothing has changed: what was refused is not said again, nor tried.
    let found = files.look(&wanted, Some(&second), None);
    assert!(found.server.is_none() && found.refused.is_empty());
    write("a.key", &a_key[..a_key.len() / 2]);
    assert_eq!(files.look(&wanted, Some(&second), None).refused.len(), 1);
    fs::remove_file(path("a.key")).unwrap();
    assert_eq!(files.look(&wanted, Some(&second), None).refused.len(), 1);
    write("a.key", &a_key);
    let found = files.look(&wanted, Some(&second), None);
    assert_eq!((found.taken.len(), found.refused.len()), (1, 0));
    assert_eq!(found.server.expect("it is whole now").certificates()[1], second.certificates()[1]);
}

#[test]
fn links_follow_their_files_too() {
    let folder = tempfile::tempdir().unwrap();
    crate::ca::init(folder.path(), 1).unwrap();
    let names = ["a".to_owned()];
    crate::ca::node(folder.path(), &names, 1).unwrap();
    let path = |name: &str| folder.path().join(name);
    let cluster = Cluster {
        ca: path("ca.pem"),
        certificate: path("a.pem"),
        key: path("a.key"),
        listen: Vec::new(),
        heartbeat_timeout: Duration::from_secs(1),
        distributors: Vec::new(),
        etcd: None,
    };
    let now = cluster.trust("a").unwrap();
    let wanted = Wanted { pairs: Vec::new(), links: Some((cluster, "a".to_owned())) };
    let mut files = Files::default();
    assert!(files.look(&wanted, None, Some(&now)).trust.is_none());
    fs::remove_file(path("a.key")).unwrap();
    assert_eq!(files.look(&wanted, None, Some(&now)).refused.len(), 1);
    fs::remove_file(path("a.pem")).unwrap();
    crate::ca::node(folder.path(), &names, 1).unwrap();
    let found = files.look(&wanted, None, Some(&now));
    let new = found.trust.expect("it was issued anew");
    assert!(new.has_same_authority(&now) && !new.has_same_certificate(&now) && found.taken.len() == 1);
}
