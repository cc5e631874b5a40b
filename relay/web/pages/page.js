// The page of a node: asks for its status every second and for its history every five, while somebody looks.
// What comes is only ever text: elements are made here, and names are put in as text content.

import { draw, forget, HOP, NODE, STREAM } from "./charts.js";

const STATUS_MS = 1000;
const HISTORY_MS = 5000;
const ANSWER_MS = 5000;
const RESIDUAL_BAD = 1e-3;  // as relay/web/findings.py has it
const LOSS_HIGH = 0.1;
const ELSEWHERE_MAX = 20;
const NBSP = "\u00a0";

const $ = (id) => document.getElementById(id);
let answered = null;  // when the node last did
let historyDue = 0;

// ---- elements --------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) if (value) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Put `children` into `parent`, unless that is what it holds: a selection or a reader's place stays.
function fill(parent, ...children) {
  const made = el(parent.tagName, null, ...children);
  const same = made.childNodes.length === parent.childNodes.length
    && [...made.childNodes].every((node, i) => node.isEqualNode(parent.childNodes[i]));
  if (!same) parent.replaceChildren(...made.childNodes);
}

function table(caption, heads, rows) {
  const cells = (row) => row.map((cell, i) => i ? el("td", { "data-label": heads[i] }, ...[cell].flat()) : el("th", { scope: "row" }, cell));
  return el("table", null, caption && el("caption", null, caption),
    el("thead", null, el("tr", null, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", null, ...rows.map((row) => el("tr", null, ...cells(row)))));
}

function figure(name, value, { tone = "", more = "" } = {}) {
  return el("div", null, el("dt", null, name), el("dd", { class: tone }, value, more && el("small", null, ` ${more}`)));
}

// ---- words -----------------------------------------------------------------------------------

const known = (value) => value !== null && value !== undefined;
const number = (value, decimals = 0) => known(value) ? value.toFixed(decimals) : "–";
const ms = (value) => known(value) ? `${value.toFixed(value < 10 ? 1 : 0)} ms` : "–";
const share = (ratio) => !known(ratio) ? "–" : `${(ratio * 100).toFixed(ratio === 0 ? 0 : ratio < 0.001 ? 3 : ratio < 0.01 ? 2 : 1)}${NBSP}%`;
const permille = (value) => known(value) ? `${(value / 10).toFixed(0)} %` : "–";
const rate = (bps) => !known(bps) ? "–" : bps >= 1e6 ? `${(bps / 1e6).toFixed(2)} Mbit/s` : `${(bps / 1e3).toFixed(0)} kbit/s`;
const celsius = (value) => known(value) ? `${value} °C` : "–";
const quantiles = (of) => `${number(of.p50)} / ${number(of.p99)} ms`;
const residualTone = (ratio) => !known(ratio) ? "" : ratio >= RESIDUAL_BAD ? "bad" : "good";
const lossTone = (ratio) => known(ratio) && ratio >= LOSS_HIGH ? "warn" : "";
const worst = (values) => values.filter(known).reduce((most, value) => most === null ? value : Math.max(most, value), null);

function duration(seconds) {
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days) return `${days} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes % 60} min` : minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

// ---- the parts of the page ---------------------------------------------------------------------

function verdict(severity, sentence, findings) {
  $("verdict").dataset.severity = severity;
  if ($("sentence").textContent !== sentence) $("sentence").textContent = sentence;
  fill($("findings"), ...findings.map((found) => el("li", { "data-severity": found.severity }, found.text)));
}

function head({ node, findings }) {
  const [first, ...others] = findings;
  const sentence = !first ? "All well" : first.text[0].toUpperCase() + first.text.slice(1);
  $("name").textContent = node.name;
  $("about").textContent = `${node.region} · relay ${node.version} · up ${duration(node.uptime_seconds)}`;
  document.title = `${node.name}: ${sentence}`;
  verdict(first ? first.severity : "good", sentence, others);
}

function thisNode({ admission, peers }) {
  const health = peers.find((peer) => peer.self).health ?? {};
  const held = [health.throttled && "throttled", health.under_voltage && "under-voltage"].filter(Boolean).join(", ");
  fill($("node"),
    figure("Load", share(admission.u), { tone: admission.u >= 0.8 ? "warn" : "" }),
    figure("Headroom", permille(health.headroom_permille)),
    figure("Temperature", celsius(health.temperature_c), { tone: health.temperature_c >= 75 || held ? "warn" : "", more: held }),
    figure("Memory free", permille(health.memory_available_permille)),
    figure("Disk free", permille(health.disk_free_permille)),
    figure("Clock", !known(health.clock_synchronised) ? "–" : health.clock_synchronised ? "synchronised" : "not synchronised",
      { tone: health.clock_synchronised === false ? "warn" : "" }));
}

// A place that stays for each of `items`, by name, as children of `parent`: `update` fills it.
function cards(parent, items, none, update) {
  const wanted = new Set(items.map((item) => item.name));
  for (const card of [...parent.children]) {
    if (wanted.has(card.dataset.name)) continue;
    const charts = card.querySelector(".charts");
    if (charts) forget(charts);
    card.remove();
  }
  const present = new Map([...parent.children].map((card) => [card.dataset.name, card]));
  for (const item of items) {
    if (!present.has(item.name)) {
      const charts = el("div", { class: "charts", "data-key": `${parent.id} ${item.name}` });
      parent.append(el("article", { class: "card", "data-name": item.name }, el("div", { class: "what" }), charts));
    }
    update(present.get(item.name) ?? parent.lastElementChild, item);
  }
  if (!items.length) parent.append(el("p", { class: "card quiet" }, none));
}

const hopsOf = (stream) => [
  ...stream.path.slice(1).map((hop, i) => ({ ...hop, from: stream.path[i].node })),
  ...stream.behind.hops,
];

function streamCard(card, stream) {
  const hops = hopsOf(stream), here = stream.path.at(-1).node;
  const bitrate = stream.tracks.reduce((sum, track) => sum + (track.bitrate_bps ?? 0), 0);
  const residual = worst(hops.map((hop) => hop.residual_ratio)), loss = worst(hops.map((hop) => hop.loss_ratio));
  const lost = stream.tracks.reduce((sum, track) => sum + track.lost_packets, 0);
  const added = worst(hops.map((hop) => hop.added_delay_ms.p99));
  const way = stream.path.flatMap((hop, i) => [
    i ? el("li", { class: "hop" }, `→ ${ms(hop.delay_ms)} →`) : null,
    el("li", { class: hop.node === here ? "place here" : "place" }, hop.node),
  ]);
  const ahead = stream.behind.hops.filter((hop) => hop.from === here);
  way.push(...ahead.slice(0, 3).flatMap((hop) => [el("li", { class: "hop" }, `→ ${ms(hop.delay_ms)} →`), el("li", { class: "place" }, hop.node)]));
  if (stream.behind.nodes > Math.min(ahead.length, 3)) way.push(el("li", { class: "hop" }, `${stream.behind.nodes} nodes behind`));
  fill(card.querySelector(".what"),
    el("h3", null, stream.name),
    el("ol", { class: "way", "aria-label": "Path" }, ...way.filter(Boolean)),
    stream.waits && el("p", { class: "bad" }, `Waits: ${stream.waits}`),
    el("dl", { class: "figures" },
      figure("Bitrate", rate(bitrate)),
      figure("Loss on the link", share(loss), { tone: lossTone(loss), more: hops.length > 1 ? "worst hop" : "" }),
      figure("After repair", share(residual), { tone: residualTone(residual) }),
      figure("Added by repair", ms(added), { more: "p99" }),
      figure("Missing here", number(lost), { more: "packets, since the start" }),
      figure("Tracks", stream.tracks.map((track) => track.kind).join(", ") || "–")),
    hops.length ? table("Every hop of its path that this node knows of", ["Hop", "Delay", "Loss", "After repair", "Added p50 / p99", ""],
      hops.map((hop) => [`${hop.from} → ${hop.node}`, ms(hop.delay_ms), el("span", { class: lossTone(hop.loss_ratio) }, share(hop.loss_ratio)),
        el("span", { class: residualTone(hop.residual_ratio) }, share(hop.residual_ratio)), quantiles(hop.added_delay_ms), hop.leaves ? "leaves there" : ""])) : null);
}

function hopCard(card, hop) {
  const loss = worst([hop.loss_ratio.send, hop.loss_ratio.receive]);
  const paths = hop.paths.map((path) => [`Path ${path.id}`, path.uplink, path.address, path.role, ms(path.rtt_ms), `${share(path.loss_ratio.send)} / ${share(path.loss_ratio.receive)}`]);
  fill(card.querySelector(".what"),
    el("h3", null, hop.name, " ", el("small", { class: hop.state === "connected" ? "quiet" : "warn" }, hop.state)),
    hop.state === "connected" ? el("dl", { class: "figures" },
      figure("Round trip", ms(hop.rtt_ms)),
      figure("Loss out / in", `${share(hop.loss_ratio.send)} / ${share(hop.loss_ratio.receive)}`, { tone: lossTone(loss) }),
      figure("Repaired", number(hop.recovered_packets), { more: "packets" }),
      figure("Not repaired", number(hop.unrecovered_packets), { more: "packets" }),
      figure("Repair sent", share(hop.overhead_ratio), { more: "of the media" }),
      figure("Added delay", quantiles(hop.added_delay_ms), { more: "p50 / p99" })) : null,
    paths.length ? table(null, ["", "Uplink", "Address", "Carries", "Round trip", "Loss out / in"], paths) : null);
}

function fleet({ peers }) {
  const rows = peers.map((peer) => {
    const health = peer.health ?? {};
    const alarms = peer.alarms.map((alarm) => el("span", { class: "alarm" }, alarm));
    return [peer.name, `${peer.region}, ${peer.role}`, peer.self ? "this node" : peer.connected ? "connected" : "not connected", number(health.streams),
      permille(health.headroom_permille), celsius(health.temperature_c), permille(health.memory_available_permille), health.version ?? "–",
      alarms.length ? el("div", null, ...alarms) : peer.health ? "well" : "unknown"];
  });
  fill($("peers"), el("div", { class: "card" }, table(null, ["Node", "Region", "Session", "Streams", "Headroom", "Temperature", "Memory free", "Version", "Health"], rows)));
}

function elsewhere({ streams, directory }) {
  const here = new Set(streams.map((stream) => stream.name));
  const others = directory.filter((of) => !here.has(of.stream));
  const rows = others.slice(0, ELSEWHERE_MAX).map((of) => [of.stream, of.region ?? "–"]);
  const more = others.length > ELSEWHERE_MAX ? `Elsewhere in the fleet: ${ELSEWHERE_MAX} of ${others.length}` : "Elsewhere in the fleet";
  fill($("elsewhere"), ...(rows.length ? [el("div", { class: "card" }, table(more, ["Stream", "At"], rows))] : []));
}

function show(status) {
  head(status);
  thisNode(status);
  cards($("streams"), status.streams, "No streams.", streamCard);
  elsewhere(status);
  cards($("hops"), status.hops.map((hop) => ({ ...hop, name: hop.peer })), "This node has no peers.", hopCard);
  fleet(status);
}

function showHistory(history) {
  const steps = history.node.load.length;
  const newest = Date.now() / 1000 - history.age_seconds;
  const times = Array.from({ length: steps }, (_, i) => newest - (steps - 1 - i) * history.step_seconds);
  draw($("node-charts"), NODE, times, history.node);
  for (const [parent, kinds, items] of [[$("streams"), STREAM, history.streams], [$("hops"), HOP, history.hops]]) {
    const byName = new Map(items.map((item) => [item.name, item]));
    for (const card of parent.querySelectorAll("[data-name]")) {
      const samples = byName.get(card.dataset.name);
      if (samples) draw(card.querySelector(".charts"), kinds, times, samples);
    }
  }
}

// ---- asking ------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return answer.json();
}

async function turn() {
  try {
    show(await ask("v1/status"));
    if (performance.now() >= historyDue) {
      historyDue = performance.now() + HISTORY_MS;
      showHistory(await ask("v1/history"));
    }
    answered = new Date();
    document.body.classList.remove("stale");
  } catch {
    const since = answered ? `; what is below is of ${answered.toLocaleTimeString()}` : "";
    document.body.classList.add("stale");
    document.title = "No answer from the node";
    verdict("bad", `The node does not answer${since}. Asking again…`, []);
  }
}

async function run() {
  for (;;) {
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    await turn();
    await new Promise((resolve) => setTimeout(resolve, STATUS_MS));
  }
}

$("node-charts").dataset.key = "node";
run();
