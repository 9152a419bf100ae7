"""Turns what run.py and the scanners wrote into docs/CONFORMANCE.md, and judges it.

In: the JSON of run.py; a folder with the scanners' JSON and XML. Out: the part of the page below its mark, a summary on
standard output, and status 1 if a conversation fails on a node that passes on plain rustls, or a scanner has a finding.
"""

import argparse
import json
import pathlib
import shlex
import sys
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).parent
MARK = "<!-- What follows is written by tools/conformance. -->"
SERVERS = ["stock", "off", "forced"]
# testssl.sh's severities that are no finding.
HARMLESS = {"OK", "INFO", "LOW", "DEBUG"}
# What a scanner says about how it was run, not about the node.
ABOUT_THE_RUN = {"scanTime", "scanProblem", "engine_problem"}


def cell(result):
    """`passed/all` of one script against one server."""
    if result is None:
        return "not run"
    outcomes = result["outcomes"].values()
    return f"{sum(outcomes)}/{len(outcomes)}" + (" (cut off)" if result["late"] else "")


def worse(row):
    """Conversations that pass on plain rustls and fail on a node."""
    stock = row.get("stock", {"outcomes": {}})["outcomes"]
    for server in SERVERS[1:]:
        ours = row.get(server, {"outcomes": {}})
        for name, passed in stock.items():
            # What a script did not come to in its time says nothing.
            if passed and not ours["outcomes"].get(name, ours.get("late", False)):
                yield server, name


def better(row):
    """Conversations that fail on plain rustls and pass on both nodes."""
    stock = row.get("stock", {"outcomes": {}})["outcomes"]
    ours = [row.get(server, {"outcomes": {}})["outcomes"] for server in SERVERS[1:]]
    return [name for name, passed in stock.items() if not passed and all(it.get(name) for it in ours)]


def fuzzer_tables(results):
    """The page's text about tlsfuzzer, and what is wrong."""
    lines, wrong, extra = [], [], []
    totals = {server: 0 for server in SERVERS}
    lines += ["| script, arguments | certificate | stock | off | forced |", "|---|---|---|---|---|"]
    for key, row in sorted(results.items()):
        certificate, _, script = key.partition(" ")
        cells = " | ".join(cell(row.get(server)) for server in SERVERS)
        lines.append(f"| `{script}` | {certificate} | {cells} |")
        wrong += [f"{server}: {key}: {name}" for server, name in worse(row)]
        extra += [f"- `{script}`: {name}" for name in better(row)]
        for server in SERVERS:
            totals[server] += sum(row.get(server, {"outcomes": {}})["outcomes"].values())
    lines.append("| all | | " + " | ".join(str(totals[server]) for server in SERVERS) + " |")
    summary = [f"Conversations that pass on plain rustls and fail on a node: {len(wrong)}.", ""]
    summary += [f"- {it}" for it in wrong] + ([""] if wrong else [])
    if extra:
        lines += ["", "Conversations that fail on plain rustls and pass on the node, lending or not:", "", *extra]
    return summary + lines, wrong


def left_out():
    """Scripts that are not run, by reason."""
    reasons = {}
    for line in (HERE / "scripts.txt").read_text().splitlines():
        if line.startswith("no "):
            script, _, reason = line[3:].partition("  # ")
            reasons.setdefault(reason, []).append(shlex.split(script)[0])
    lines = ["", "Scripts left out, because what they need is refused by design:", ""]
    return lines + [f"- {reason}: " + ", ".join(f"`{it}`" for it in names) for reason, names in reasons.items()]


def testssl(path):
    findings = json.loads(path.read_text())
    bad = [it for it in findings if it["severity"] not in HARMLESS and it["id"] not in ABOUT_THE_RUN]
    counts = {}
    for it in findings:
        counts[it["severity"]] = counts.get(it["severity"], 0) + 1
    said = ", ".join(f"{count} {severity}" for severity, count in sorted(counts.items()))
    return said, [f"testssl.sh: {it['id']}: {it['severity']}: {it['finding']}" for it in bad]


def sslyze(path):
    """Mozilla's intermediate profile, as sslyze's own check of it, and its tests for known attacks."""
    scan = json.loads(path.read_text())
    bad = []
    for server in scan["server_scan_results"]:
        if server["scan_status"] != "COMPLETED":
            bad.append(f"sslyze: scan {server['scan_status']}")
            continue
        for name, attempt in server["scan_result"].items():
            # HTTP's headers and client certificates are not asked about.
            if attempt["status"] == "ERROR":
                bad.append(f"sslyze: {name}: {attempt['error_reason']}")
            for key, value in (attempt["result"] or {}).items():
                if value is True and key.startswith(("is_vulnerable", "supports_compression")):
                    bad.append(f"sslyze: {name}: {key}")
                if key == "accepted_cipher_suites" and value and not name.startswith(("tls_1_2", "tls_1_3")):
                    bad.append(f"sslyze: {name}: accepted")
    text = path.with_suffix(".txt").read_text()
    compliant = "OK - Compliant" in text
    if not compliant:
        _, _, verdict = text.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
        bad += [f"sslyze: {line.strip(' *')}" for line in verdict.splitlines() if line.strip().startswith("* ")]
    return "compliant with Mozilla's intermediate profile" if compliant else "findings", bad


def sslscan(path):
    root = xml.etree.ElementTree.parse(path).getroot()
    bad = []
    for protocol in root.iter("protocol"):
        old = protocol.get("type") == "ssl" or protocol.get("version") in ("1.0", "1.1")
        if old and protocol.get("enabled") == "1":
            bad.append(f"sslscan: {protocol.get('type')} {protocol.get('version')} enabled")
    for kind in ("weak", "medium", "null", "anonymous"):
        bad += [f"sslscan: {it.get('cipher')}: {kind}" for it in root.iter("cipher") if it.get("strength") == kind]
    bad += ["sslscan: heartbleed" for it in root.iter("heartbleed") if it.get("vulnerable") == "1"]
    bad += ["sslscan: compression" for it in root.iter("compression") if it.get("supported") == "1"]
    ciphers = {it.get("cipher") for it in root.iter("cipher")}
    return f"{len(ciphers)} cipher suites, none weak" if ciphers else "no cipher suite seen", bad


def scanner_table(folder):
    lines = ["| scanner | outcome | findings above \"low\" |", "|---|---|---|"]
    wrong = []
    for name, read, file in [
        ("sslyze", sslyze, "sslyze.json"),
        ("sslscan", sslscan, "sslscan.xml"),
        ("testssl.sh", testssl, "testssl.json"),
    ]:
        said, bad = read(folder / file)
        wrong += bad
        lines.append(f"| {name} | {said} | {'; '.join(bad) or 'none'} |")
    return lines, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=pathlib.Path)
    parser.add_argument("--scanners", type=pathlib.Path)
    parser.add_argument("--page", type=pathlib.Path)
    args = parser.parse_args()
    text, wrong = [], []
    if args.scanners:
        lines, bad = scanner_table(args.scanners)
        text += ["", "## Scanners: the outcome", "", *lines]
        wrong += bad
    if args.results:
        lines, bad = fuzzer_tables(json.loads(args.results.read_text()))
        text += ["", "## tlsfuzzer: the outcome", "", *lines, *left_out()]
        wrong += bad
    if args.page:
        head, mark, _ = args.page.read_text().partition(MARK)
        args.page.write_text("\n".join([head + (mark or MARK), *text, ""]))
    else:
        print("\n".join(text))
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"conformance: {len(wrong)} findings")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
