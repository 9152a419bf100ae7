//! A node's files change in every way; its one worker is a mailbox.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use keyferry_app::{Chunk, Job, JobId, Part, Port};
use keyferry_http::{Progress, Reader, Request};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::applications::{App, Nothing, Own};
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
    /// Of its worker to the applications.
    port: Rc<RefCell<Port<App<Nothing>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Node {
    fn start(text: &str) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        certify(&at("a"));
        fs::write(at("a.toml"), text).unwrap();
        let cores = BTreeSet::from([0, 1]);
        let config = config::read_text(text, &at("a.toml"), &cores).unwrap();
        let server = Server::new(&node::tls_options(&config, None).unwrap()).unwrap();
        let (mailbox, registry) = (Arc::new(ArrayQueue::new(4)), Arc::new(Registry::new()));
        let stop = Arc::default();
        let started = applications::start(&config, Own::none(), &registry, &stop).unwrap();
        let applications::Started { mut ports, threads, live } = started;
        let port = Rc::new(RefCell::new(ports.pop().unwrap()));
        let mailboxes = vec![Arc::clone(&mailbox)];
        let reload = Reload::new(&config, server, None, cores, mailboxes, live, &registry);
        Node { folder, reload: Rc::new(reload), mailbox, registry, port, stop, threads }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file with other text in it.
    fn edit(&self, from: &str, to: &str) {
        assert!(LEAST.contains(from), "{from}");
        fs::write(self.file("a.toml"), LEAST.replacen(from, to, 1)).unwrap();
    }

    /// The reply to a GET, as soon as it is whole.
    async fn get(&self, path: &str) -> String {
        let (mut request, bytes) =
            (Box::<Request>::default(), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let read = Reader::new().feed(bytes.as_bytes(), &mut request, &Default::default());
        assert_eq!(read, Ok((bytes.len(), Progress::Complete)));
        let job = Job { id: JobId(1), request, chunk: Chunk::new() };
        assert!(self.port.borrow_mut().submit(job).is_ok());
        self.port.borrow_mut().flush();
        loop {
            let mut parts = Default::default();
            self.port.borrow_mut().poll(&mut parts);
            for part in parts {
                if let Part::Reply { chunk, end: Some(_), .. } = part {
                    return String::from_utf8_lossy(chunk.bytes()).into_owned();
                }
            }
            sleep(AGAIN).await;
        }
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
    within_node(LEAST, test);
}

fn within_node(text: &str, test: impl AsyncFnOnce(Node)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test(Node::start(text)).await });
}

/// Takes what comes, as a worker does; keeps the last, and has what is inside it change.
fn work(node: &Node) -> Rc<RefCell<Option<Settings>>> {
    let (mailbox, port, last) = (Arc::clone(&node.mailbox), Rc::clone(&node.port), Rc::default());
    let block = node.registry.block(&["settings_taken"], "worker 0".to_owned());
    let kept: Rc<RefCell<Option<Settings>>> = Rc::clone(&last);
    spawn_local(async move {
        let mut taken = 0;
        loop {
            if let Some(Mail::Settings(mut settings)) = mailbox.pop() {
                if let Some(change) = settings.app.take() {
                    port.borrow_mut().change(change);
                }
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

/// Inside the worker, which hears of it with its settings.
#[test]
fn routes_are_taken_over_with_the_folder_they_name() {
    within(async |node| {
        let _last = work(&node);
        fs::create_dir(node.file("www")).unwrap();
        fs::write(node.file("www/a.txt"), "of the folder").unwrap();
        assert!(node.get("/a.txt").await.contains("Content-Length: 1024\r\n"), "the default answers");
        let tables =
            "[[route]]\npath_prefix = \"/a.txt\"\napp = \"static\"\n[app.static]\nroot = \"www\"\n[limits]\n";
        node.edit("[limits]\n", tables);
        let Outcome::Taken { applied, needs_restart, .. } = node.reload.reload().await else { panic!() };
        assert_eq!((keys(&applied), needs_restart), (vec!["[[route]] /a.txt: added".to_owned()], vec![]));
        assert!(node.get("/a.txt").await.ends_with("\r\n\r\nof the folder"));
        assert!(node.get("/b").await.contains("Content-Length: 1024\r\n"));
        // Another folder, in which it is not.
        fs::create_dir(node.file("other")).unwrap();
        node.edit("[limits]\n", &tables.replace("\"www\"", "\"other\""));
        let Outcome::Taken { applied, .. } = node.reload.reload().await else { panic!() };
        assert_eq!(keys(&applied), ["[app.static] root"]);
        assert!(node.get("/a.txt").await.contains(" 404 "));
        // One that is not there.
        node.edit("[limits]\n", &tables.replace("\"www\"", "\"none\""));
        assert_eq!(node.reload.reload().await.word(), "refused");
        assert!(node.get("/a.txt").await.contains(" 404 "));
        node.edit("[limits]\n", "[limits]\n");
        assert_eq!(node.reload.reload().await.word(), "applied");
        assert!(node.get("/a.txt").await.contains("Content-Length: 1024\r\n"));
    });
}

/// An upstream of one server, which answers each connection with this.
fn upstream(node: &Node, name: &'static str) -> String {
    let file = node.file(name);
    let listener = UnixListener::bind(&file).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close", name.len());
            let _ = stream.write_all(format!("{head}\r\n\r\n{name}").as_bytes());
        }
    });
    format!("[[upstream]]\nname = \"{name}\"\nservers = [\"unix:{}\"]\n", file.display())
}

/// On threads: workers first go by what suits the applications of before and of then.
#[test]
fn no_worker_and_application_disagree() {
    let apps = "[cores]\nidle = \"yield\"\napps = [1]\n[[upstream]]\nname = \"none\"\nservers = [\"192.0.2.1:1\"]\n[limits]\n";
    within_node(&LEAST.replace("[limits]\n", apps), async |node| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let (mailbox, kept, then) = (Arc::clone(&node.mailbox), Rc::clone(&told), Rc::clone(&node.port));
        let block = node.registry.block(&["settings_taken"], "worker 0".to_owned());
        spawn_local(async move {
            loop {
                if let Some(Mail::Settings(settings)) = mailbox.pop() {
                    assert!(
                        settings.app.is_none() && !then.borrow().is_inline(),
                        "control tells the threads"
                    );
                    kept.borrow_mut().push(settings.streams);
                    block.publish(&[kept.borrow().len() as u64]);
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        let upstreams = [upstream(&node, "one"), upstream(&node, "two")].concat();
        let route = |path: &str, app: &str| format!("[[route]]\npath_prefix = \"{path}\"\napp = \"{app}\"\n");
        let streams = || applications::streams(&node.reload.config());
        let mut before = streams();
        let synthetic = "Content-Length: 1024\r\n";
        let [one, two] = ["\r\n\r\none", "\r\n\r\ntwo"];
        for (name, answer) in [("one", one), ("two", two), ("synthetic", synthetic), ("one", one)] {
            let routes = route("/a", name) + &route("/b", "two");
            let text = format!("[cores]\nidle = \"yield\"\napps = [1]\n{routes}{upstreams}[limits]\n");
            node.edit("[limits]\n", &text);
            assert_eq!(node.reload.reload().await.word(), "applied");
            assert!(node.get("/a").await.contains(answer), "{name}");
            let now = streams();
            let [.., of_both, last] = &told.borrow()[..] else { panic!("{} letters", told.borrow().len()) };
            assert_eq!((of_both, last), (&before.and(&now), &now), "{name}");
            before = now;
        }
        assert_eq!(told.borrow().len(), 8);
        assert_eq!(node.registry.total("reloads_applied"), 4);
    });
}
