// Charts of the experiment's series, and the histogram behind SED's threshold. Plotly is a script of its own.
import { article, getJson } from "./service.js";

const COLOURS = ["#2a78d1", "#d9822b", "#2f9e63", "#9650c8"];
const OPTIONS = { responsive: true, displaylogo: false, displayModeBar: false };

export const charts = [...document.querySelectorAll(".chart[data-names]")].map((element) => ({
  element,
  names: element.dataset.names.split(","),
  drawn: false,
}));

function traces(series, names) {
  return series.flatMap((one) => {
    const colour = COLOURS[names.indexOf(one.name) % COLOURS.length];
    const label = names.length > 1 ? one.name.split("/").slice(1).join("/") : one.name;
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

// What a variable of the style sheet means in the present colour scheme.
function colourOf(variable) {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  article.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

function layout(axis, showlegend) {
  const line = colourOf("--line");
  return {
    margin: { l: 48, r: 8, t: 6, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colourOf("--ink"), size: 11 },
    showlegend,
    legend: { orientation: "h", y: 1.15, x: 0 },
    xaxis: { title: { text: axis }, gridcolor: line, zeroline: false },
    yaxis: { gridcolor: line, zeroline: false, automargin: true },
    hovermode: "x unified",
    uirevision: "kept",
  };
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
  await Plotly.react(chart.element, traces(series, chart.names), layout("step", chart.names.length > 1), OPTIONS);
}

// Shares of the calibration tokens by top-k mass; those left of tau are flexible.
export function drawHistogram(element, { low, high, counts, tau, top_k: topK }) {
  const total = counts.reduce((sum, count) => sum + count, 0) || 1;
  const width = (high - low) / counts.length;
  const middles = counts.map((_, place) => low + (place + 0.5) * width);
  const colours = { flexible: colourOf("--flexible"), rigid: colourOf("--rigid"), ink: colourOf("--ink") };
  const bars = {
    type: "bar",
    x: middles,
    y: counts.map((count) => count / total),
    width,
    marker: { color: middles.map((middle) => (middle < tau ? colours.flexible : colours.rigid)) },
    hovertemplate: "%{x:.3f}: %{y:.1%}<extra></extra>",
  };
  const line = { x0: tau, x1: tau, yref: "paper", y0: 0, y1: 1, line: { color: colours.ink, width: 1.5, dash: "dot" } };
  const side = tau > (low + high) / 2 ? { xanchor: "right", xshift: -4 } : { xanchor: "left", xshift: 4 };
  const label = { x: tau, yref: "paper", y: 1, yanchor: "top", text: `tau ${tau.toFixed(3)}`, showarrow: false, ...side };
  const plan = layout(`top-${topK} mass`, false);
  Object.assign(plan, { hovermode: "closest", bargap: 0.05, shapes: [line], annotations: [label] });
  Object.assign(plan.xaxis, { range: [low, high] });
  Object.assign(plan.yaxis, { tickformat: ".0%" });
  element.textContent = "";
  return Plotly.react(element, [bars], plan, OPTIONS);
}
