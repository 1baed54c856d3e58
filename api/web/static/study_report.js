// The plots of a study's report. Everything that they show stands in the page: the tables beside them need no script.
import { COLOURS, OPTIONS, layout } from "./plot_style.js";

const DASHES = ["solid", "dash", "dot"];
const plots = [...document.querySelectorAll(".chart[data-plot]")].map((element) => ({
  element,
  spec: JSON.parse(element.dataset.plot),
}));

function styleOf(place) {
  return { colour: COLOURS[place % COLOURS.length], dash: DASHES[Math.floor(place / COLOURS.length) % DASHES.length] };
}

function lines(trace, place, axis) {
  const { colour, dash } = styleOf(place);
  const x = trace.x[axis];
  const edge = { x, mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip", connectgaps: false };
  const main = { x, y: trace.mean, name: trace.name, mode: trace.mode, line: { color: colour, width: 1.6, dash } };
  return [{ ...edge, y: trace.high }, { ...edge, y: trace.low, fill: "tonexty", fillcolor: colour + "22" }, main];
}

function marks(trace, place) {
  const { colour } = styleOf(place);
  return [{ x: trace.x.x, y: trace.mean, text: trace.labels, name: trace.name, mode: "markers", marker: { color: colour, size: 7 } }];
}

function draw({ element, spec }, wanted) {
  const axis = spec.axes[wanted] ? wanted : Object.keys(spec.axes)[0];
  const traces = spec.traces.flatMap((trace, place) => (trace.mode === "markers" ? marks(trace, place) : lines(trace, place, axis)));
  const plan = layout(spec.axes[axis], true);
  if (spec.log_x) Object.assign(plan.xaxis, { type: "log", tickvals: spec.traces[0]?.x[axis] });
  if (spec.traces.some((trace) => trace.mode === "markers")) plan.hovermode = "closest";
  Plotly.react(element, traces, plan, OPTIONS);
}

function drawAll() {
  const chosen = document.querySelector('input[name="step-axis"]:checked')?.value;
  plots.forEach((plot) => draw(plot, chosen));
}

document.querySelectorAll('input[name="step-axis"]').forEach((input) => input.addEventListener("change", drawAll));
drawAll();
