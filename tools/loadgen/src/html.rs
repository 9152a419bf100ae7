//! A report as one page that needs nothing else: figures and plots. A report and the command go in, text comes out.

use std::fmt::Write;

use crate::plot::{Plot, Scale, Series};
use crate::report::{Interval, Latency, Report};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #ffffff; --faint: #d0d7de; --soft: #57606a;
  --a: #0969da; --b: #cf222e; --c: #8250df }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --ground: #0d1117; --faint: #30363d; --soft: #9198a1;
  --a: #58a6ff; --b: #ff7b72; --c: #d2a8ff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--faint) }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 600 }
code { overflow-wrap: anywhere } .wide { overflow-x: auto } p.note { color: var(--soft) }
svg { width: 100%; min-width: 34rem; height: auto } svg text { fill: var(--soft); font-size: 12px }
svg .grid { stroke: var(--faint); stroke-width: 1 } svg polyline { fill: none }
svg .s0 { stroke: var(--a); stroke-width: 2 } svg .s1 { stroke: var(--b); stroke-width: 2 }
svg .s2 { stroke: var(--c); stroke-width: 2 }
";

/// The page; `command`: how to repeat the run.
pub fn page(report: &Report, command: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>keyferry-load</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>keyferry-load: {:.0} requests a second</h1>\n\
         <p><code>{}</code></p>\n",
        report.requests_per_s,
        escaped(command)
    );
    figures(report, &mut out);
    latencies(report, &mut out);
    for plot in plots(report) {
        let _ = write!(out, "<h2>{}</h2>\n<div class=\"wide\">{}</div>\n", plot.title, plot.svg());
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn figures(report: &Report, out: &mut String) {
    let (h, g) = (&report.handshakes, &report.generator);
    let e = &report.errors;
    let rows = [
        ("Right replies", format!("{} in {:.2} s", report.requests, report.seconds)),
        ("Intended rate", report.intended_per_s.map_or("closed loop".to_owned(), |rate| format!("{rate}/s"))),
        ("Bodies", format!("{:.1} MB, {} wrong", report.bytes as f64 / 1e6, report.mismatches)),
        (
            "Errors",
            format!(
                "{}: connect {}, TLS {}, reset {}, closed {}, HTTP {}, status {}, time-out {}; unsent {}",
                report.failures(),
                e.connect,
                e.tls,
                e.reset,
                e.closed,
                e.http,
                e.status,
                e.timeout,
                report.unsent
            ),
        ),
        (
            "Handshakes",
            format!(
                "{} full, {} resumed: {:.2} % of {:.2} % wanted",
                h.full,
                h.resumed,
                h.resumed_share * 100.0,
                h.wanted_share * 100.0
            ),
        ),
        (
            "Generator",
            format!(
                "threads {}, the busiest at {:.0} % of a core; late by p50 {:.0} us, p99 {:.0} us; steal {:.1} %",
                g.threads,
                g.cpu_share * 100.0,
                g.lag_us.p50,
                g.lag_us.p99,
                g.steal_share * 100.0
            ),
        ),
        (
            "First fault",
            report.first_mismatch.clone().or(report.first_error.clone()).unwrap_or("none".into()),
        ),
    ];
    out.push_str("<div class=\"wide\"><table>\n");
    for (name, text) in rows {
        let _ = writeln!(out, "<tr><td>{name}</td><td>{}</td></tr>", escaped(&text));
    }
    out.push_str("</table></div>\n");
}

fn latencies(report: &Report, out: &mut String) {
    out.push_str(
        "<h2>Latency in microseconds</h2>\n<div class=\"wide\"><table>\n<tr><th></th><th>mean</th><th>p50</th>\
         <th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th></tr>\n",
    );
    let phases = &report.phases_us;
    for (name, Latency { mean, p50, p90, p99, p999, p9999, max, .. }) in [
        ("Corrected: from the intended moment", &report.latency_us),
        ("Raw: from the actual moment", &report.latency_raw_us),
        ("TCP connect", &phases.tcp),
        ("TLS handshake", &phases.tls),
        ("To the first byte", &phases.first_byte),
        ("From there to the last", &phases.last_byte),
    ] {
        let _ = write!(out, "<tr><td>{name}</td>");
        for value in [mean, p50, p90, p99, p999, p9999, max] {
            let _ = write!(out, "<td>{value:.0}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn plots(report: &Report) -> [Plot; 3] {
    let over_time = |name, of_second: fn(&Interval) -> f64| Series {
        name,
        points: report.intervals.iter().map(|i| (i.second as f64, of_second(i))).collect(),
    };
    // The horizontal axis is the number of nines, which spreads what is rare.
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let curve = |name, of_point: fn(&crate::report::CurvePoint) -> f64| Series {
        name,
        points: report.curve.iter().map(|point| (nines(point.quantile), of_point(point))).collect(),
    };
    let labels =
        [(0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %")];
    [
        Plot {
            title: "Latency by quantile",
            x: ("share of requests", labels.map(|(at, text)| (at, text.to_owned())).into()),
            y: ("us", Scale::Logarithmic),
            series: vec![curve("corrected", |p| p.corrected_us), curve("raw", |p| p.raw_us)],
        },
        Plot {
            title: "Replies a second",
            x: ("s", vec![]),
            y: ("/s", Scale::Linear),
            series: vec![over_time("right", |i| i.requests as f64), over_time("errors", |i| i.errors as f64)],
        },
        Plot {
            title: "Corrected latency over time",
            x: ("s", vec![]),
            y: ("us", Scale::Logarithmic),
            series: vec![
                over_time("p50", |i| i.p50_us),
                over_time("p99", |i| i.p99_us),
                over_time("max", |i| i.max_us),
            ],
        },
    ]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::report;
    use crate::tally::Tally;

    #[test]
    fn the_page_stands_alone_and_escapes() {
        let mut tally = Tally::new();
        (1..100).for_each(|us| tally.reply(Duration::from_micros(us), Duration::from_micros(us)));
        let text = page(&report(&tally), "keyferry-load --slo 'p99<2ms' \"x\"");
        assert!(text.contains("p99&lt;2ms' &quot;x&quot;"));
        assert_eq!(text.matches("<svg").count(), 3);
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
    }
}
