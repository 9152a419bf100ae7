//! Upstreams and routes: their example is complete and true, and every mistake is named.

use super::*;
use crate::config::app::Named;

const EXAMPLE: &str = include_str!("../../../../docs/examples/upstream.toml");

/// The problems of the example after `edits`, each of which has to change something.
fn problems(edits: &[(&str, &str)]) -> Vec<Problem> {
    let mut text = EXAMPLE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replacen(from, to, 1);
    }
    Folder::new().parse(&text).err().map(|problems| problems.list().to_vec()).unwrap_or_default()
}

#[test]
fn the_example_is_valid_and_says_the_defaults() {
    let folder = Folder::new();
    let config = folder.parse(EXAMPLE).unwrap();
    assert!(config.reaches_upstreams());
    let [app, api] = &config.upstreams[..] else { panic!("two upstreams") };
    let shown = Options { health: None, ..app.clone() };
    assert_eq!(shown, Options::new("app", app.servers.clone()));
    assert_eq!(*api, Options::new("api", api.servers.clone()));
    assert_eq!(api.servers[0].to_string(), "unix:/run/api.sock");
    let least = "[upstream.health]\npath = \"/health\"\nhost = \"app.example.net\"\n";
    let (before, rest) = EXAMPLE.split_once("[upstream.health]").unwrap();
    let behind = &rest[rest.find("[[upstream]]").unwrap()..];
    assert_eq!(folder.parse(&format!("{before}{least}{behind}")).unwrap(), config);
    assert_eq!(config.app.default, Named::Upstream(0));
    let routes: Vec<_> =
        config.routes.iter().map(|it| (it.host.as_deref(), it.path_prefix.as_str(), it.app)).collect();
    assert_eq!(
        routes,
        [(Some("files.example.net"), "/public", Named::Static), (None, "/api", Named::Upstream(1))]
    );
}

#[test]
fn the_example_shows_every_key() {
    let full: toml::Table = toml::from_str(EXAMPLE).unwrap();
    let context = Context::new(EXAMPLE, Path::new("a.toml"));
    read(context.root().unwrap(), &[]);
    let schema = context.into_parts().1;
    let is_here = |path: &&String| path.starts_with("upstream") || path.starts_with("route");
    assert!(schema.iter().filter(is_here).count() > 25);
    for path in schema.iter().filter(is_here) {
        let mut value = toml::Value::Table(full.clone());
        for part in path.split('.') {
            let inner = match &value {
                toml::Value::Array(tables) => tables.iter().find_map(|table| table.get(part)),
                other => other.get(part),
            };
            value = inner.unwrap_or_else(|| panic!("the example does not show {path}")).clone();
        }
    }
}

#[test]
fn the_only_upstream_need_not_be_named() {
    let folder = Folder::new();
    let alone = EXAMPLE[..EXAMPLE.rfind("[[upstream]]").unwrap()].replace("app = \"api\"", "app = \"app\"");
    let config = folder.parse(&alone.replace("upstream = \"app\"", "")).unwrap();
    assert_eq!(config.app.default, Named::Upstream(0));
    // One that nothing names needs no threads.
    let unused = alone.replace("kind = \"upstream\"", "").replace("app = \"app\"", "app = \"static\"");
    let config = folder.parse(&unused.replace("apps = [2]", "apps = []")).unwrap();
    assert!(!config.reaches_upstreams());
}

/// Edits of the example, the place they break, and a piece of the sentence about it.
const CASES: &[Case] = &[
    (&[("apps = [2]", "apps = []")], "[cores] apps", "application threads"),
    (&[("upstream = \"app\"", "")], "[app] kind", "several upstreams"),
    (&[("upstream = \"app\"", "upstream = \"apps\"")], "[app] upstream", "did you mean \"app\""),
    (&[("kind = \"upstream\"", "kind = \"proxy\"")], "[app] kind", "[[upstream]]"),
    (&[("root = \"/var/www\"", "")], "[app.static] root", "required"),
    (&[("app = \"static\"", "app = \"statik\"")], "[[route]] app", "did you mean \"static\""),
    (
        &[("app = \"api\"", "app = \"zzz\"")],
        "[[route]] app",
        "write one of \"synthetic\", \"static\", \"app\", \"api\"",
    ),
    (&[("path_prefix = \"/api\"", "")], "[[route]] app", "for every request"),
    (&[("path_prefix = \"/api\"", "path_prefix = \"api\"")], "[[route]] path_prefix", "begins with"),
    (&[("\"files.example.net\"", "\"https://files\"")], "[[route]] host", "no host"),
    (
        &[("host = \"files.example.net\"", ""), ("\"/api\"", "\"/public\"")],
        "[[route]] app",
        "the same host and path_prefix",
    ),
    (&[("name = \"app\"", "name = \"a b\"")], "[[upstream]] name", "is no name"),
    (&[("name = \"app\"", "name = \"static\"")], "[[upstream]] name", "comes with keyferry"),
    (&[("name = \"app\"", "")], "[[upstream]] name", "required"),
    (
        &[("name = \"api\"", "name = \"app\""), ("app = \"api\"", "app = \"app\"")],
        "[[upstream]] name",
        "another one's",
    ),
    (&[("servers = [\"unix:/run/api.sock\"]", "servers = []")], "[[upstream]] servers", "empty"),
    (&[("servers = [\"unix:/run/api.sock\"]", "")], "[[upstream]] servers", "required"),
    (&[("\"unix:/run/api.sock\"", "\"localhost:80\"")], "[[upstream]] servers", "names are not looked up"),
    (&[("\"unix:/run/api.sock\"", "\"http://10.0.0.1\"")], "[[upstream]] servers", "plain HTTP"),
    (&[("\"unix:/run/api.sock\"", "\"10.0.0.1:0\"")], "[[upstream]] servers", "no port"),
    (&[("idle = 64", "idle = 257")], "[[upstream]] idle", "only 256"),
    (&[("connections = 256", "connections = 0")], "[[upstream]] connections", "from 1"),
    (&[("\"both\"", "\"all\"")], "[[upstream]] forwarded", "write one of"),
    (&[("failures = 3", "failures = 3\nfailure = 3")], "[[upstream]]", "did you mean failures"),
    (&[("path = \"/health\"", "path = \"health\"")], "[[upstream]] path", "begins with"),
    (&[("rise = 2", "rise = 0")], "[[upstream]] rise", "from 1"),
];

#[test]
fn each_mistake_is_one_sentence_at_its_place() {
    for (edits, place, what) in CASES {
        let problems = problems(edits);
        assert_eq!(problems.len(), 1, "{edits:?}: {problems:#?}");
        assert_eq!(problems[0].place, *place, "{edits:?}");
        assert!(problems[0].what.contains(what), "{edits:?}: {}", problems[0].what);
        assert!(problems[0].line.is_some(), "{edits:?} has no line");
    }
}

#[test]
fn an_executable_may_have_applications_of_its_own() {
    let folder = Folder::new();
    let own = ["hello".to_owned(), "time".to_owned()];
    let text = EXAMPLE.replacen("kind = \"upstream\"", "kind = \"time\"", 1).replacen(
        "app = \"api\"",
        "app = \"hello\"",
        1,
    );
    let config = folder.parse_with(&text, &own).unwrap();
    assert_eq!((config.app.default, config.routes[1].app), (Named::Own(1), Named::Own(0)));
    assert_eq!(config.own, own);
    let told = |text: &str, own: &[String]| {
        let problems = folder.parse_with(text, own).unwrap_err();
        problems
            .list()
            .iter()
            .map(|problem| format!("{}: {}", problem.place, problem.what))
            .collect::<Vec<_>>()
    };
    let others = told(&text, &own[1..]);
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].starts_with("[[route]] app: there is no \"hello\""), "{others:?}");
    assert!(others[0].contains("\"static\", \"time\", \"app\""), "{others:?}");
    let slip = told(&text.replacen("\"time\"", "\"tine\"", 1), &own);
    assert!(slip[0].starts_with("[app] kind: there is no \"tine\", did you mean \"time\"?"), "{slip:?}");
    let taken = told(EXAMPLE, &["api".to_owned()]);
    assert!(taken.len() == 1 && taken[0].contains("is an application of this executable"), "{taken:?}");
}
