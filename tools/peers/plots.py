"""Puts the result of tools/bench into docs/BENCHMARKS.md, as tables and as bars in SVG."""

import re
from pathlib import Path

BEGIN = "<!-- tools/bench --write: from here -->"
END = "<!-- to here -->"
COLOURS = {"keyferry": "#2a78d6", "keyferry_vhost": "#123f73", "nginx": "#1b9e5a", "haproxy": "#c4622d"}
LABELS = {"keyferry": "keyferry, veth", "keyferry_vhost": "keyferry, vhost", "haproxy": "HAProxy"}
WIDTH, ROW, LEFT, RIGHT = 720, 26, 130, 120


def machine():
    """The machine, in a sentence."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    kernel = Path("/proc/sys/kernel/osrelease").read_text().strip()
    return f"{model.group(1) if model else 'unknown processor'}, {cores} cores, Linux {kernel.split('-')[0]}"


def bars(title, unit, values):
    """One plot: values is [(name, median, spread)]."""
    height = 40 + ROW * len(values)
    top = max(value for _, value, _ in values) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" fill="#777">',
        f'<text x="8" y="20" font-weight="bold">{title}, {unit}</text>',
    ]
    room = WIDTH - LEFT - RIGHT
    for row, (name, value, spread) in enumerate(values):
        y = 32 + row * ROW
        length = value / top * room
        parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{LABELS.get(name, name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="2" '
            f'fill="{COLOURS.get(name, "#888")}"/>'
        )
        reach = min(spread * length, room)
        parts.append(
            f'<path d="M{LEFT + length - reach:.1f} {y + 9}H{LEFT + length + reach:.1f}" stroke="#777" stroke-width="2"/>'
        )
        parts.append(f'<text x="{LEFT + length + reach + 8:.1f}" y="{y + 14}">{number(value)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def number(value):
    """Three digits that say something."""
    for scale, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= scale:
            return f"{value / (1e3 if suffix == ' k' else scale):.3g}{suffix}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def check(document):
    """Ends when there is no place for the result."""
    text = document.read_text()
    if text.find(BEGIN) < 0 or text.find(END) < text.find(BEGIN):
        raise SystemExit(f"{document} has no line {BEGIN}: put it and {END} where the result belongs")


def write(document, results, cases, medians, versions, run_of, summary):
    """Replaces what an earlier run wrote."""
    check(document)
    folder = document.parent / "bench"
    folder.mkdir(exist_ok=True)
    lines = [BEGIN, "", f"{machine()}; {', '.join(versions.values())}; {run_of}, medians ± half the distance between",
             "the quartiles. Others' share of the server's core in a trial: at most "
             f"{disturbed(results):.0%}.", "", f"    {summary}", ""]
    titles = [(case.name, case.title, "per_core_second", f"{case.unit} a core-second of the server") for case in cases]
    titles.append(("idle_memory", "an idle connection", "bytes", "bytes"))
    for name, title, key, unit in titles:
        found = medians(results, name, key)
        if not found:
            continue
        values = [(peer, *found[peer]) for peer in found]
        (folder / f"{name}.svg").write_text(bars(title, unit, values))
        lines += [f"![{title}](bench/{name}.svg)", ""]
        lines += table(name, title, unit, results, found, medians)
        lines += left_out(results[name])
    if "at_rest" in results:
        lines += at_rest(results, medians)
    text = document.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    document.write_text(before + "\n".join(lines) + END + after)


def at_rest(results, medians):
    """A node that nobody asks, and one that a few ask."""
    share, p50, p99 = (medians(results, "at_rest", key) for key in ("share", "p50_us", "p99_us"))
    rows = [f"| `{idle}` | **{share[idle][0]:.2%}** | {p50[idle][0]:.0f} | {p99[idle][0]:.0f} |" for idle in results["at_rest"]]
    return ["| a node at rest | of a core | a few requests: p50 us | p99 us |", "|---|---|---|---|", *rows, ""]


def disturbed(results):
    """The largest share of the server's core that others had in a trial."""
    rounds = [figures for peers in results.values() for rounds in peers.values() for figures in rounds]
    return max((figures.get("others_share", 0.0) for figures in rounds), default=0.0)


def left_out(peers):
    """Turns of keyferry's core without work: it polls, so that it always looks busy."""
    shares = {LABELS[peer]: max(figures["idle_share"] for figures in rounds)
              for peer, rounds in peers.items() if "idle_share" in rounds[0]}
    if not shares:
        return []
    said = "; ".join(f"{label}: at most {share:.1%}" for label, share in shares.items())
    return [f"Of the core's time in turns without work, and left out: {said}.", ""]


def table(name, title, unit, results, found, medians):
    """Medians, with half the distance between the quartiles."""
    if name == "idle_memory":
        rows = []
        for peer, (value, _) in found.items():
            fewer, more = results[name][peer][0]["at"].items()
            rows.append(f"| {LABELS.get(peer, peer)} | **{value:.0f}** | {fewer[1] / 2**20:.0f} | {more[1] / 2**20:.0f} |")
        counts = f"MiB with {int(fewer[0]):,} | with {int(more[0]):,}"
        return [f"| {title} | {unit} | {counts} |", "|---|---|---|---|", *rows, ""]
    columns = ["rate", "busy_share", "p50_us", "p99_us", "client_share"]
    found_of = {column: medians(results, name, column) for column in columns}
    rows = []
    for peer, (value, spread) in found.items():
        rest = [found_of[column][peer][0] for column in columns]
        rows.append(
            f"| {LABELS.get(peer, peer)} | **{number(value)}** ± {spread:.0%} | {number(rest[0])} | {rest[1]:.2f} | {rest[2]:.0f} | "
            f"{rest[3]:.0f} | {rest[4]:.2f} |"
        )
    head = f"| {title} | {unit} | a second | server's core busy | p50 us | p99 us | client's core busy |"
    return [head, "|---|---|---|---|---|---|---|", *rows, ""]
