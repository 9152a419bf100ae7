//! `docs/METRICS.md` has a row for each counter, and none for what is not counted.

use std::collections::BTreeMap;

use super::*;

const PAGE: &str = include_str!("../../../../docs/METRICS.md");

/// How Prometheus knows a counter; `None`: it is no row of its own.
fn exported(name: &str) -> Option<String> {
    match class(name) {
        Class::Latency => None,
        Class::Of(family) if family.label == "alert" => None,
        Class::Of(Family { metric, label, prefix, fixed, .. }) => {
            let fixed = fixed.map(|(name, value)| format!(",{name}=\"{value}\"")).unwrap_or_default();
            Some(format!("`{metric}{{{label}=\"{}\"{fixed}}}`", &name[prefix.len()..]))
        }
        Class::Sum => Some("the sum of others".to_owned()),
        Class::Busy => Some(format!("`{}`", BUSY.1)),
        Class::Gauge => Some(format!("`keyferry_{name}`")),
        Class::Counter => Some(format!("`keyferry_{name}_total`")),
    }
}

/// The page's rows, by counter.
fn rows() -> BTreeMap<&'static str, [&'static str; 2]> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').splitn(3, " | ").map(str::trim).collect();
        let [name, exported, what] = cells[..] else { panic!("{line}: a row has three cells") };
        let before = rows.insert(name.trim_matches('`'), [exported, what]);
        assert_eq!(before, None, "{line}: a counter has one row");
    }
    rows
}

#[test]
fn each_counter_has_its_row() {
    let helps: BTreeMap<_, _> = helps().collect();
    let mut rows = rows();
    for name in all_names().collect::<BTreeSet<_>>() {
        let Some(exported) = exported(name) else { continue };
        let help = helps.get(name).copied();
        // What stands beside a label has no help of its own in the text for Prometheus.
        let is_labelled = matches!(class(name), Class::Of(_));
        assert!(help.is_some() || is_labelled, "{name} has no help");
        let wanted = format!("| `{name}` | {exported} | {} |", help.unwrap_or("what it counts"));
        let Some([also, what]) = rows.remove(name) else { panic!("docs/METRICS.md lacks the row\n{wanted}") };
        assert_eq!(also, exported, "docs/METRICS.md: the row should be\n{wanted}");
        assert!(
            !what.is_empty() && help.is_none_or(|help| what == help),
            "docs/METRICS.md: the row should be\n{wanted}"
        );
    }
    assert!(rows.is_empty(), "docs/METRICS.md: nothing counts {:?}", rows.keys());
}

#[test]
fn each_alert_is_named() {
    for name in all_names() {
        let alert = name.strip_prefix("alerts_sent_").or_else(|| name.strip_prefix("alerts_received_"));
        assert!(
            alert.is_none_or(|alert| PAGE.contains(&format!("`{alert}`"))),
            "docs/METRICS.md lacks {name}"
        );
    }
}
