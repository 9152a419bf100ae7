// Looks at /state.json once a second and draws what changed. Counts in it grow from the process's start: rates are of two
// looks, as in control/src/top/rates.rs. Text enters the page as text only, whatever names and sentences hold.
"use strict";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
/** Looks that are remembered: five minutes. */
const HISTORY_MAX = 300;
/** As in control/src/top/tables.rs. */
const ENDS_SOON_S = 21 * 86400;
const BUSY = 0.85;
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [HISTORY_MAX - 1, 100];

/** What each look saw, the newest last; `rates` is null if nothing is known of the time before it. */
const looks = [];
/** The look that is pointed at, from the newest; null if none is. */
let pointed = null;

const element = (name, properties = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
};

const shape = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

// Numbers, as people read them.

const short = (number) => {
  if (number < 9.95 && !Number.isInteger(number)) return number.toFixed(1);
  if (number < 9999.5) return number.toFixed(0);
  let [scaled, unit] = [number / 1e3, "k"];
  for (const next of ["M", "G", "T"]) if (scaled >= 999.5) [scaled, unit] = [scaled / 1e3, next];
  return scaled.toFixed(scaled < 99.95 ? 1 : 0) + unit;
};
const percent = (share) => `${(share * 100).toFixed(0)} %`;
const time = (us) =>
  us < 99.95 ? `${us.toFixed(1)} us` : us < 999.5 ? `${us.toFixed(0)} us` : us < 99950 ? `${(us / 1e3).toFixed(2)} ms`
    : us < 999500 ? `${(us / 1e3).toFixed(0)} ms` : `${(us / 1e6).toFixed(1)} s`;
const span = (seconds) => {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};
const known = (value, show = short) => (value === null || value === undefined ? "-" : show(value));

// Rates of two samples.

const quantile = (below, counts, rank) => {
  let [seen, lower] = [0, 0];
  for (let place = 0; place < below.length; place++) {
    if (counts[place] > 0 && seen + counts[place] >= rank) {
      return lower + ((below[place] - lower) * (rank - seen)) / counts[place];
    }
    seen += counts[place];
    lower = below[place];
  }
  return lower;
};

const times = (before, now) => {
  if (!before || !now) return null;
  const counts = now.counts.map((count, place) => Math.max(0, count - before.counts[place]));
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  const at = (share) => quantile(now.below_ns, counts, share * all) / 1e3;
  return { mean: Math.max(0, now.sum_us - before.sum_us) / all, p50: at(0.5), p99: at(0.99) };
};

const CORE_RATES = ["packets_in", "packets_out", "requests", "begun", "handshakes_full", "handshakes_resumed"];

const rates = (before, now) => {
  const us = before ? now.at_us - before.at_us : 0;
  if (us <= 0 || before.started_ms !== now.started_ms) return null;
  const second = (from, to) => (Math.max(0, to - from) * 1e6) / us;
  const cores = now.cores.map((core) => {
    const earlier = before.cores.find((it) => it.worker === core.worker);
    const of = (key) => second(earlier ? earlier[key] : 0, core[key]);
    const made = Object.fromEntries(CORE_RATES.map((key) => [key, of(key)]));
    return { ...made, busy: Math.min(1, of("busy_us") / 1e6) };
  });
  const sum = (key) => cores.reduce((all, core) => all + core[key], 0);
  const drops = Object.fromEntries(
    Object.entries(now.drops).map(([name, count]) => [name, second(before.drops[name] ?? 0, count)]),
  );
  const moves = now.moves && before.moves;
  const peers = now.peers.filter((peer) => peer.lent !== null).map((peer) => {
    const earlier = before.peers.find((it) => it.name === peer.name);
    const of = (key) => second(earlier?.[key] ?? 0, peer[key]);
    return [peer.name, { lent: of("lent"), borrowed: of("borrowed") }];
  });
  return {
    cores,
    total: Object.fromEntries(CORE_RATES.map((key) => [key, sum(key)])),
    busiest: Math.max(0, ...cores.map((core) => core.busy)),
    lent: moves && second(before.moves.lent, now.moves.lent),
    borrowed: moves && second(before.moves.borrowed, now.moves.borrowed),
    peers: Object.fromEntries(peers),
    latency: times(before.latency, now.latency),
    drops,
    dropped: Object.values(drops).reduce((all, rate) => all + rate, 0),
  };
};

const connections = (sample) => sample.cores.reduce((all, core) => all + core.connections, 0);

// Plots: each has up to two curves, told by what they are of a look.

const rate = (of) => (look) => (look.rates ? of(look.rates) : null);
const PLOTS = [
  { id: "requests", title: "Requests a second", only: "node", curves: [["", rate((it) => it.total.requests)]] },
  {
    id: "latency", title: "Time to the end of a reply", only: "node", show: time,
    curves: [["p50", rate((it) => it.latency?.p50 ?? null)], ["p99", rate((it) => it.latency?.p99 ?? null)]],
  },
  { id: "connections", title: "Connections", curves: [["", (look) => connections(look.sample)]] },
  { id: "begun", title: "New connections a second", only: "distributor", curves: [["", rate((it) => it.total.begun)]] },
  { id: "busy", title: "Busiest core", show: percent, most: 1, curves: [["", rate((it) => it.busiest)]] },
  {
    id: "moves", title: "Requests moved a second", only: "node",
    curves: [["lent", rate((it) => it.lent)], ["borrowed", rate((it) => it.borrowed)]],
  },
  {
    id: "handshakes", title: "Handshakes a second", only: "node",
    curves: [["full", rate((it) => it.total.handshakes_full)], ["resumed", rate((it) => it.total.handshakes_resumed)]],
  },
  {
    id: "packets", title: "Packets a second",
    curves: [["in", rate((it) => it.total.packets_in)], ["out", rate((it) => it.total.packets_out)]],
  },
  { id: "drops", title: "Dropped and refused a second", curves: [["", rate((it) => it.dropped)]] },
];

/** The least of 1, 2 and 5 times a power of ten that is not less. */
const above = (most) => {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((it) => it >= most);
};

const drawPlot = (plot) => {
  const show = plot.show ?? short;
  const series = plot.curves.map(([, of]) => looks.map(of));
  const values = series.flat().filter((value) => value !== null);
  const most = plot.most ?? above(Math.max(1, ...values));
  const x = (place) => WIDTH - (looks.length - 1 - place);
  const y = (value) => HEIGHT - (HEIGHT * Math.min(value, most)) / most;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const at of [0, HEIGHT / 2, HEIGHT]) svg.append(shape("line", { x1: 0, x2: WIDTH, y1: at, y2: at }));
  series.forEach((points, curve) => {
    for (const run of runs(points)) {
      const drawn = run.map((place) => `${x(place)},${y(points[place]).toFixed(1)}`);
      const [first, last] = [x(run[0]), x(run[run.length - 1])];
      if (curve === 0) {
        svg.append(shape("polygon", { points: [`${first},${HEIGHT}`, ...drawn, `${last},${HEIGHT}`].join(" ") }));
      }
      svg.append(shape("polyline", { points: drawn.join(" "), class: `s${curve}` }));
    }
  });
  const place = pointed === null ? looks.length - 1 : looks.length - 1 - pointed;
  if (pointed !== null) svg.append(shape("line", { x1: x(place), x2: x(place), y1: 0, y2: HEIGHT, class: "at" }));
  const now = plot.curves.map(([name], curve) =>
    element("span", { className: "value" }, ...(name ? [element("small", {}, name)] : []), known(series[curve][place], show)));
  const head = element("h2", {}, plot.title + (pointed === null ? "" : `, ${pointed} s ago`));
  const scale = element("div", { className: "plot" }, element("span", {}, show(most)), svg);
  return element("article", { id: plot.id }, head, element("div", { className: "values" }, ...now), scale);
};

/** Places of values that follow each other; a gap is not drawn over. */
const runs = (points) => {
  const all = [];
  points.forEach((value, place) => {
    if (value === null) return;
    const open = all[all.length - 1];
    if (open && open[open.length - 1] === place - 1) open.push(place);
    else all.push([place]);
  });
  return all;
};

// Tables: rows of cells, a cell being a text, or { text, tone, svg }.

const bar = (share) => {
  const svg = shape("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" });
  svg.append(shape("rect", { width: 100, height: 8, rx: 2, class: "all" }));
  svg.append(shape("rect", { width: 100 * share, height: 8, rx: 2, class: share > BUSY ? "part warning" : "part" }));
  return svg;
};

const table = (id, title, heads, rows, none) => {
  const article = element("article", { id }, element("h2", {}, title));
  if (rows.length === 0) {
    article.append(element("p", { className: "none" }, none));
    return article;
  }
  const kind = (place) => heads[place][1];
  const cell = (it, place) => {
    const { text, tone = "", svg = null } = typeof it === "string" ? { text: it } : it;
    return element("td", { className: `${kind(place)} ${tone}`.trim() }, ...(svg ? [svg] : []), text);
  };
  const body = rows.map((row) => element("tr", {}, ...row.map(cell)));
  const head = element("tr", {}, ...heads.map(([name, kind]) => element("th", { className: kind, scope: "col" }, name)));
  const made = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  article.append(element("div", { className: "wide" }, made));
  return article;
};

const N = "number";

const cores = (sample, rates) => {
  const isNode = sample.role === "node";
  const columns = [
    ["core", N, (core) => known(core.core)],
    ["worker", N, (core) => String(core.worker)],
    ["busy", "", (_, of) => (of ? { text: percent(of.busy), svg: bar(of.busy) } : "-")],
    ...(isNode ? [["requests/s", N, (_, of) => known(of?.requests)], ["in app", N, (core) => short(core.in_app)]] : []),
    ["connections", N, (core) => short(core.connections)],
    ["new/s", N, (_, of) => known(of?.begun)],
    ["packets in/s", N, (_, of) => known(of?.packets_in)],
    ["out/s", N, (_, of) => known(of?.packets_out)],
  ];
  const rows = sample.cores.map((core, place) => columns.map(([, , show]) => show(core, rates?.cores[place])));
  return table("cores", "Cores", columns, rows, "no worker has started");
};

const STATES = { up: "well", draining: "warning", copying: "warning" };
const state = (peer) => ({ text: peer.state, tone: STATES[peer.state] ?? "alarm" });

const peers = (sample, rates) => {
  const columns = sample.role === "node"
    ? [
      ["peer", "", (it) => it.name],
      ["link", "", state],
      ["since", N, (it) => known(it.since_s, span)],
      ["lent/s", N, (it) => known(rates?.peers[it.name]?.lent)],
      ["borrowed/s", N, (it) => known(rates?.peers[it.name]?.borrowed)],
      ["queue pairs", N, (it) => known(it.queue_pairs)],
      ["heard", N, (it) => known(it.heard_ms, (ms) => `${time(ms * 1e3)} ago`)],
      ["address", "", (it) => it.address ?? "-"],
      ["problem", "long", (it) => ({ text: it.problem ?? "", tone: "alarm" })],
    ]
    : [
      ["name", "", (it) => it.name],
      ["is", "", (it) => it.role ?? "-"],
      ["state", "", state],
      ["since", N, (it) => known(it.since_s, span)],
      ["connections", N, (it) => known(it.connections)],
      ["requests", N, (it) => known(it.requests)],
      ["sessions", N, (it) => known(it.sessions)],
      ["address", "", (it) => it.address ?? "-"],
    ];
  const rows = sample.peers.map((peer) => columns.map(([, , show]) => show(peer)));
  const title = sample.role === "node" ? "Peers" : "Nodes and distributors";
  return table("peers", title, columns, rows, "none");
};

const drops = (sample, rates) => {
  const all = Object.entries(sample.drops).map(([name, count]) => [name, rates?.drops[name] ?? null, count]);
  all.sort((a, b) => (b[1] ?? 0) - (a[1] ?? 0) || b[2] - a[2]);
  const rows = all.map(([name, rate, count]) => [
    { text: name, tone: rate > 0 ? "warning" : "" }, known(rate), short(count),
  ]);
  const heads = [["counter", ""], ["a second", N], ["since start", N]];
  return table("dropped", "Dropped and refused", heads, rows, "nothing since the start");
};

const certificates = (sample) => {
  const rows = sample.certificates.map((it) => {
    const left = it.not_after - sample.clock_s;
    const tone = left < 0 ? "alarm" : left < ENDS_SOON_S ? "warning" : "well";
    return [{ text: left < 0 ? `${span(-left)} ago` : span(left), tone }, it.name, it.file, it.serial];
  });
  const heads = [["ends in", N], ["name", ""], ["file", "long"], ["serial", "long"]];
  return table("certificates", "Certificates", heads, rows, "none");
};

// The page.

const say = (text, tone) => {
  const news = document.getElementById("news");
  if (news.textContent !== text) news.textContent = text;
  news.className = tone;
};

const draw = () => {
  const { sample, rates } = looks[looks.length - 1];
  const facts = [sample.role, sample.model && `model ${sample.model}`, sample.phase, `up ${span(sample.at_us / 1e6)}`, sample.version];
  document.title = `${sample.name}: keyferry`;
  document.getElementById("name").textContent = sample.name;
  document.getElementById("about").textContent = facts.filter(Boolean).join(" · ");
  const plots = PLOTS.filter((plot) => (plot.only ?? sample.role) === sample.role);
  document.getElementById("plots").replaceChildren(...plots.map(drawPlot));
  document.getElementById("tables").replaceChildren(
    cores(sample, rates), peers(sample, rates), drops(sample, rates), certificates(sample),
  );
};

const look = async () => {
  if (document.hidden) return;
  let sample;
  try {
    const answer = await fetch("/state.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    sample = await answer.json();
  } catch (error) {
    return say(`no answer (${error.message}): is it running? Trying again`, "alarm");
  }
  const before = looks.length > 0 ? looks[looks.length - 1].sample : null;
  looks.push({ sample, rates: rates(before, sample) });
  if (looks.length > HISTORY_MAX) looks.shift();
  say("live", "well");
  draw();
};

const point = (event) => {
  const plot = event.target.closest?.(".plot");
  const box = plot?.getBoundingClientRect();
  const at = box ? Math.round((1 - (event.clientX - box.left) / box.width) * WIDTH) : null;
  const next = at !== null && at >= 0 && at < looks.length ? at : null;
  if (next === pointed) return;
  pointed = next;
  if (looks.length > 0) draw();
};

document.getElementById("plots").addEventListener("pointermove", point);
document.getElementById("plots").addEventListener("pointerleave", () => point({ target: document.body }));

const watch = async () => {
  await look();
  setTimeout(watch, EVERY_MS);
};
watch();
