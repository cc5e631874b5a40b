// Charts of the last ten minutes, by uPlot: one for each kind of figure, redrawn when a sample has come.

const HEIGHT = 126;
const charts = new Map();  // by place and title

const percent = (v) => v === null ? "–" : v === 0 ? "0 %" : `${(v * 100).toPrecision(v < 0.0995 ? 2 : 3)} %`;
const megabits = (v) => v === null ? "–" : `${(v / 1e6).toPrecision(3)} Mbit/s`;
const ms = (v) => v === null ? "–" : `${v < 10 ? v.toFixed(1) : v.toFixed(0)} ms`;
const celsius = (v) => v === null ? "–" : `${v.toFixed(0)} °C`;

// Least: what the axis reaches in any case, so that noise around nothing looks like nothing.
export const STREAM = [
  { title: "Bitrate", least: 1e5, say: megabits, figures: [["bitrate_bps", "received"]] },
  { title: "Loss", least: 0.01, say: percent, figures: [["loss", "on the link"], ["residual", "after repair"]] },
  { title: "Delay", least: 10, say: ms, figures: [["delay_ms", "one way"], ["added_ms", "added by repair, p99"]] },
];
export const HOP = [
  { title: "Loss", least: 0.01, say: percent, figures: [["loss_send", "out"], ["loss_receive", "in"]] },
  { title: "Round trip", least: 10, say: ms, figures: [["rtt_ms", "round trip"]] },
  { title: "Traffic", least: 1e5, say: megabits, figures: [["sent_bps", "out"], ["received_bps", "in"]] },
];
export const NODE = [
  { title: "Load and headroom", least: 1, say: percent, figures: [["load", "load"], ["headroom", "headroom"]] },
  { title: "Temperature", least: 40, say: celsius, figures: [["temperature_c", "processor"]] },
  { title: "Event loop", least: 20, say: ms, figures: [["loop_lag_ms", "late by, at worst"]] },
];

// Draw what `samples` has of each of `kinds` within `place`, an element with an id; `times` in seconds.
export function draw(place, kinds, times, samples) {
  for (const kind of kinds) {
    const columns = kind.figures.map(([name]) => samples[name]);
    const key = `${place.dataset.key}\n${kind.title}`;
    if (columns.every((column) => column.every((value) => value === null))) {
      drop(key);
      continue;
    }
    if (!charts.has(key)) charts.set(key, make(place, kind));
    const { plot, says } = charts.get(key);
    plot.setData([times, ...columns]);
    says(columns.map((column) => column.at(-1)));
  }
}

// Forget the charts of a place that is gone.
export function forget(place) {
  for (const key of [...charts.keys()]) if (key.startsWith(`${place.dataset.key}\n`)) drop(key);
}

function drop(key) {
  charts.get(key)?.end();
  charts.delete(key);
}

function make(place, kind) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const title = document.createElement("b");
  title.textContent = kind.title;
  const keys = kind.figures.map((_, i) => {
    const span = document.createElement("span");
    span.className = "key";
    span.dataset.series = String(i);
    return span;
  });
  caption.append(title, ...keys);
  const box = document.createElement("div");
  box.className = "plot";
  box.setAttribute("role", "img");
  figure.append(caption, box);
  place.append(figure);
  const says = (values) => {
    keys.forEach((span, i) => { span.textContent = `${kind.figures[i][1]} ${kind.say(values[i] ?? null)}`; });
    box.setAttribute("aria-label", `${kind.title} over ten minutes; now ${keys.map((span) => span.textContent).join(", ")}`);
  };
  const plot = new uPlot(options(kind, box.clientWidth, says), [[], ...kind.figures.map(() => [])], box);
  const resized = new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: HEIGHT }));
  resized.observe(box);
  return { plot, says, end: () => { resized.disconnect(); plot.destroy(); figure.remove(); } };
}

function options(kind, width, says) {
  const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: colour("--grid"), width: 1 } };
  const series = kind.figures.map(([, label], i) => ({
    label, stroke: colour(i ? "--second" : "--first"), width: 1.75, dash: i ? [5, 3] : undefined, points: { show: false },
  }));
  return {
    width, height: HEIGHT, legend: { show: false }, padding: [8, 6, 0, 0],
    cursor: { sync: { key: "all" }, y: false, drag: { setScale: false } },
    scales: { y: { range: (_, low, high) => [Math.min(low ?? 0, 0), Math.max(high ?? 0, kind.least) * 1.05] } },
    series: [{}, ...series],
    axes: [
      { ...axis, size: 30, gap: 9, space: 70, values: (_, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })) },
      { ...axis, size: 56, space: 34, values: (_, ticks) => ticks.map(short(kind.say)) },
    ],
    hooks: { setCursor: [(plot) => {
      const at = plot.cursor.idx ?? plot.data[0].length - 1;
      if (at >= 0) says(plot.data.slice(1).map((column) => column[at]));
    }] },
  };
}

// An axis says no more than it must: "30 %" for "30.0 %", "2 M" for "2.00 Mbit/s".
function short(say) {
  return (value) => say(value).replace(/(\.\d*?)0+(?=\D)/, "$1").replace(/\.(?=\D)/, "").replace("bit/s", "");
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { plot } of charts.values()) plot.redraw(false, true);
});
