// The plots of a study's report. Everything that they show stands in the page: the tables beside them need no script.
import { COLOURS, OPTIONS, layout } from "./plot_style.js";

const DASHES = ["solid", "dash", "dot"];
let plots = [];
let arms = [];

// An arm has the same colour in every plot, also where others are missing.
function styleOf(name) {
  const place = Math.max(arms.indexOf(name), 0);
  return { colour: COLOURS[place % COLOURS.length], dash: DASHES[Math.floor(place / COLOURS.length) % DASHES.length] };
}

function lines(trace, axis) {
  const { colour, dash } = styleOf(trace.name);
  const x = trace.x[axis];
  const edge = { x, mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip", connectgaps: false, legendgroup: trace.name };
  const main = { x, y: trace.mean, name: trace.name, mode: trace.mode, legendgroup: trace.name, line: { color: colour, width: 2, dash } };
  return [{ ...edge, y: trace.high }, { ...edge, y: trace.low, fill: "tonexty", fillcolor: colour + "22" }, main];
}

function marks(trace) {
  const { colour } = styleOf(trace.name);
  const marker = { color: colour, size: 8, opacity: 0.85 };
  return [{ x: trace.x.x, y: trace.mean, text: trace.labels, name: trace.name, mode: "markers", marker }];
}

function bars(trace, place) {
  return [{ type: "bar", orientation: "h", x: trace.mean, y: trace.x.arm, name: trace.name, marker: { color: COLOURS[place % COLOURS.length] } }];
}

const FORMS = { markers: marks, bar: bars };

function draw({ element, spec }, wanted) {
  const axis = spec.axes[wanted] ? wanted : Object.keys(spec.axes)[0];
  const traces = spec.traces.flatMap((trace, place) => (FORMS[trace.mode] ? FORMS[trace.mode](trace, place) : lines(trace, axis)));
  const plan = layout(spec.axes[axis], true);
  plan.legend = { orientation: "h", y: 1.02, x: 0, yanchor: "bottom", font: { size: 10 } };
  plan.margin.t = 8;
  plan.hovermode = "x";
  if (spec.log_x) Object.assign(plan.xaxis, { type: "log", tickvals: spec.traces[0]?.x[axis], ticktext: spec.traces[0]?.x[axis].map(String) });
  if (spec.traces.some((trace) => FORMS[trace.mode])) plan.hovermode = "closest";
  if (spec.traces.some((trace) => trace.mode === "bar")) {
    Object.assign(plan, { barmode: "stack" });
    Object.assign(plan.yaxis, { autorange: "reversed", automargin: true });
  }
  if (spec.y) plan.yaxis.title = { text: spec.y, standoff: 8 };
  plan.uirevision = axis;
  Plotly.react(element, traces, plan, OPTIONS);
}

function drawAll() {
  const chosen = document.querySelector('input[name="step-axis"]:checked')?.value;
  plots.forEach((plot) => draw(plot, chosen));
}

// Draws what the page holds now; again whenever the report was replaced.
export function drawReport() {
  arms = JSON.parse(document.getElementById("study-report")?.dataset.arms || "[]");
  plots = [...document.querySelectorAll(".chart[data-plot]")].map((element) => ({ element, spec: JSON.parse(element.dataset.plot) }));
  document.querySelectorAll('input[name="step-axis"]').forEach((input) => input.addEventListener("change", drawAll));
  drawAll();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawReport();
