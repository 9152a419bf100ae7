//! A node's files change in every way; its one worker is a mailbox.

use std::fs;
use std::path::PathBuf;

use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::config::Model;

/// The required keys and nothing else.
const LEAST: &str = r#"
[node]
name = "a"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.10/24"]
[[certificate]]
chain = "a.pem"
key = "a.key"
[limits]
"#;

struct Node {
    folder: tempfile::TempDir,
    reload: Rc<Reload>,
    mailbox: Arc<ArrayQueue<Mail>>,
    registry: Arc<Registry>,
}

impl Node {
    fn start() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        certify(&at("a"));
        fs::write(at("a.toml"), LEAST).unwrap();
        let cores = BTreeSet::from([0, 1]);
        let config = config::read_text(LEAST, &at("a.toml"), &cores).unwrap();
        let server = Server::new(&node::tls_options(&config, None).unwrap()).unwrap();
        let (mailbox, registry) = (Arc::new(ArrayQueue::new(4)), Arc::new(Registry::new()));
        let reload = Reload::new(&config, server, None, cores, vec![Arc::clone(&mailbox)], &registry);
        Node { folder, reload: Rc::new(reload), mailbox, registry }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file with other text in it.
    fn edit(&self, from: &str, to: &str) {
        assert!(LEAST.contains(from), "{from}");
        fs::write(self.file("a.toml"), LEAST.replacen(from, to, 1)).unwrap();
    }

    fn serial(&self) -> String {
        self.reload.certificates()[0].serial.clone()
    }
}

/// Another certificate and its key.
fn certify(stem: &std::path::Path) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    fs::write(stem.with_extension("pem"), made.cert.pem()).unwrap();
    fs::write(stem.with_extension("key"), made.signing_key.serialize_pem()).unwrap();
}

fn within(test: impl AsyncFnOnce(Node)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test(Node::start()).await });
}

/// Takes what comes, as a worker does; keeps the last.
fn work(node: &Node) -> Rc<RefCell<Option<Settings>>> {
    let (mailbox, last) = (Arc::clone(&node.mailbox), Rc::default());
    let block = node.registry.block(&["settings_taken"], "worker 0".to_owned());
    let kept: Rc<RefCell<Option<Settings>>> = Rc::clone(&last);
    spawn_local(async move {
        let mut taken = 0;
        loop {
            if let Some(Mail::Settings(settings)) = mailbox.pop() {
                taken += 1;
                kept.replace(Some(*settings));
                block.publish(&[taken]);
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    last
}

fn keys(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::to_string).collect()
}

#[test]
fn what_can_be_taken_over_is_and_the_rest_is_named() {
    within(async |node| {
        let last = work(&node);
        assert_eq!(node.reload.reload().await.word(), "unchanged");
        node.edit("[limits]\n", "[limits]\nheaders = 20\nconnections = 20000\n");
        let Outcome::Taken { applied, needs_restart, .. } = node.reload.reload().await else { panic!() };
        assert_eq!(keys(&applied), ["[limits] headers"]);
        assert_eq!(keys(&needs_restart), ["[limits] connections"]);
        assert_eq!(last.borrow().as_ref().unwrap().http.headers, 20);
        assert_eq!(node.reload.config().limits.connections, 16_384);
        let Outcome::Taken { applied, needs_restart, .. } = node.reload.reload().await else { panic!() };
        assert_eq!((applied.len(), needs_restart.len()), (0, 1), "it still waits");
        node.edit("name = \"a\"", "name = \"a\"\nmodel = \"session\"");
        assert_eq!(node.reload.reload().await.word(), "applied");
        assert_eq!(node.reload.config().node.model, Model::Session);
        assert_eq!(node.reload.config().limits.headers, 64, "as it was before");
        let total = |name: &str| node.registry.total(name);
        let counts = ["applied", "partly", "unchanged", "refused"].map(|it| total(&format!("reloads_{it}")));
        assert_eq!(counts, [1, 2, 1, 0]);
    });
}

#[test]
fn a_certificate_is_another_one_by_its_files_alone() {
    within(async |node| {
        let last = work(&node);
        let before = node.serial();
        certify(&node.file("a"));
        let Outcome::Taken { applied, .. } = node.reload.reload().await else { panic!() };
        assert_ne!(node.serial(), before);
        assert!(keys(&applied)[0].ends_with(&format!("a.pem: serial {}", node.serial())), "{applied:?}");
        assert_eq!(last.borrow().as_ref().unwrap().tls.certificates()[0].serial, node.serial());
        // The one before is let go when nobody uses it: here nobody does.
        let gone = async {
            while node.registry.total("certificates_retired") > 0 {
                sleep(AGAIN).await;
            }
        };
        assert_eq!(node.registry.total("certificates_retired"), 1);
        tokio::select! {
            () = gone => {}
            () = node.reload.retire() => unreachable!("it goes on for ever"),
        }
    });
}

#[test]
fn nothing_is_half_applied() {
    within(async |node| {
        let before = (node.reload.config().clone(), node.serial());
        // A certificate that could be taken over, beside a key of another one and a mistake in the file.
        certify(&node.file("b"));
        certify(&node.file("a"));
        fs::copy(node.file("a.key"), node.file("b.key")).unwrap();
        let more = "[[certificate]]\nchain = \"b.pem\"\nkey = \"b.key\"\n[limits]\nheaders = 1\nheader = 1\n";
        node.edit("[limits]\n", more);
        let outcome = node.reload.reload().await;
        let Outcome::Refused { problems, .. } = &outcome else { panic!("{outcome:?}") };
        let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(places, ["[[certificate]] key", "[limits]"], "{problems:?}");
        assert_eq!((node.reload.config().clone(), node.serial()), before);
        assert!(node.mailbox.is_empty(), "no worker has heard of it");
        fs::write(node.file("a.toml"), "[distributor]\nname = \"d\"\n").unwrap();
        assert_eq!(node.reload.reload().await.word(), "refused");
        fs::remove_file(node.file("a.toml")).unwrap();
        assert_eq!(node.reload.reload().await.word(), "refused");
        assert_eq!(node.registry.total("reloads_refused"), 3);
        assert!(node.mailbox.is_empty());
    });
}

#[test]
fn files_that_change_are_taken_over_by_themselves() {
    within(async |node| {
        let _last = work(&node);
        let before = node.serial();
        let changed = async {
            sleep(AGAIN).await;
            certify(&node.file("a"));
            while node.serial() == before {
                sleep(AGAIN).await;
            }
        };
        // Far less than the time after which it is looked in any case would do; a busy machine needs more.
        tokio::select! {
            () = changed => {}
            () = node.reload.follow_files() => unreachable!("it goes on for ever"),
        }
        assert_eq!(node.registry.total("certificate_changes_taken"), 1);
        assert_eq!(node.registry.total("reloads_applied"), 0, "nobody asked");
    });
}
