// Charts of the experiment's series, and the histogram behind SED's threshold. Plotly is a script of its own.
import { COLOURS, OPTIONS, colourOf, layout } from "./plot_style.js";
import { getJson } from "./service.js";

export const charts = [...document.querySelectorAll(".chart[data-names]")].map((element) => ({
  element,
  names: element.dataset.names.split(","),
  labels: element.dataset.labels.split(","),
  drawn: false,
}));

function traces(series, { names, labels }) {
  const inOrder = names.map((name) => series.find((one) => one.name === name)).filter(Boolean);
  return inOrder.flatMap((one) => {
    const place = names.indexOf(one.name);
    const colour = COLOURS[place % COLOURS.length];
    const label = labels[place];
    if (one.kind === "points") {
      return [{ x: one.points.map((p) => p.step), y: one.points.map((p) => Number(p.value)), name: label, mode: "lines", line: { color: colour, width: 1.6 } }];
    }
    const steps = one.envelope.map((bucket) => bucket.last_step);
    const edge = { mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" };
    return [
      { x: steps, y: one.envelope.map((bucket) => bucket.max), ...edge },
      { x: steps, y: one.envelope.map((bucket) => bucket.min), ...edge, fill: "tonexty", fillcolor: colour + "33" },
      { x: steps, y: one.envelope.map((bucket) => bucket.mean), name: label, mode: "lines", line: { color: colour, width: 1.6 } },
    ];
  });
}

export async function draw(chart) {
  const query = chart.names.map((name) => `name=${encodeURIComponent(name)}`).join("&");
  const { series } = await getJson(`/metrics?${query}&max_points=600`);
  if (!series.length) {
    if (!chart.drawn) chart.element.textContent = "no values yet";
    return;
  }
  if (!chart.drawn) chart.element.textContent = "";
  chart.drawn = true;
  await Plotly.react(chart.element, traces(series, chart), layout("step", chart.names.length > 1), OPTIONS);
}

// Shares of the calibration tokens by top-k mass. Tau is the quantile that leaves `mask_ratio` of them rigid, which says
// how its own bin divides.
export function drawHistogram(element, { low, high, counts, tau, top_k: topK, mask_ratio: maskRatio }) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const width = (high - low) / counts.length;
  let left = (1 - maskRatio) * total;
  const flexible = counts.map((count) => {
    const taken = Math.min(count, left);
    left -= taken;
    return taken;
  });
  const bars = (name, values) => ({
    type: "bar",
    name,
    x: counts.map((_, place) => low + (place + 0.5) * width),
    y: values.map((count) => count / total),
    width,
    marker: { color: colourOf(`--${name}`) },
    hovertemplate: `%{x:.3f}: %{y:.1%} ${name}<extra></extra>`,
  });
  const line = { x0: tau, x1: tau, yref: "paper", y0: 0, y1: 1, line: { color: colourOf("--ink"), width: 1.5, dash: "dot" } };
  const first = low + Math.max(counts.findIndex((count) => count > 0) - 1, 0) * width;
  const side = tau > (first + high) / 2 ? { xanchor: "right", xshift: -4 } : { xanchor: "left", xshift: 4 };
  const label = { x: tau, yref: "paper", y: 1, yanchor: "top", text: `tau ${tau.toFixed(3)}`, showarrow: false, ...side };
  const plan = layout(`top-${topK} mass`, true);
  Object.assign(plan, { barmode: "stack", hovermode: "closest", shapes: [line], annotations: [label] });
  Object.assign(plan.xaxis, { range: [first, high] });
  Object.assign(plan.yaxis, { tickformat: ".0%" });
  element.textContent = "";
  const rigid = counts.map((count, place) => count - flexible[place]);
  return Plotly.react(element, [bars("flexible", flexible), bars("rigid", rigid)], plan, OPTIONS);
}
