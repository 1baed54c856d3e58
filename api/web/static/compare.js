// Curves of groups: the mean over seeds with its band, and each run where a reader wants them. All data is in the page.
import { COLOURS, OPTIONS, layout } from "./plot_style.js";

const AXES = { steps: "step", seconds: "hours of work", tokens: "tokens trained" };
const DASHES = ["solid", "dash", "dot", "dashdot"];
const order = [...document.querySelectorAll(".groups .swatch")].map((one) => one.parentElement.querySelector("strong").textContent);
const plots = [...document.querySelectorAll(".chart[data-plot]")].map((element) => ({ element, spec: JSON.parse(element.dataset.plot) }));

const colourAt = (place) => COLOURS[place % COLOURS.length];
const dashAt = (place) => DASHES[Math.floor(place / COLOURS.length) % DASHES.length];

function groupTraces(curve, axis) {
  const place = Math.max(order.indexOf(curve.group), 0);
  const colour = colourAt(place);
  const edge = { x: curve[axis], mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip", legendgroup: curve.group };
  const main = { x: curve[axis], y: curve.mean, name: `${curve.group} (n ${curve.num_units})`, mode: "lines", legendgroup: curve.group, line: { color: colour, width: 2, dash: dashAt(place) } };
  return [{ ...edge, y: curve.high }, { ...edge, y: curve.low, fill: "tonexty", fillcolor: `${colour}26` }, main];
}

function runTraces(curve) {
  const colour = colourAt(Math.max(order.indexOf(curve.group), 0));
  return curve.runs.map((run) => ({
    x: run.steps, y: run.values, name: run.experiment_id, mode: "lines", showlegend: false, legendgroup: curve.group, line: { color: `${colour}70`, width: 1 },
  }));
}

function draw({ element, spec }) {
  const wanted = document.querySelector('input[name="axis"]:checked').value;
  const known = spec.curves.filter((curve) => curve[wanted]);
  const axis = known.length ? wanted : "steps";
  const curves = axis === "steps" ? spec.curves : known;
  if (!curves.length) {
    element.textContent = "no run of these has more than one value";
    return;
  }
  const traces = curves.flatMap((curve) => groupTraces(curve, axis));
  // Single runs were binned by steps: over other axes only the means can stand.
  if (document.getElementById("show-runs").checked && axis === "steps") traces.unshift(...curves.flatMap(runTraces));
  const missing = spec.curves.length - curves.length;
  const note = axis === wanted ? (missing ? `; ${missing} groups do not tell them` : "") : `; ${AXES[wanted]} not known`;
  const plan = layout(AXES[axis] + note, true);
  if (document.getElementById("log-y").checked) plan.yaxis.type = "log";
  plan.hovermode = "x";
  plan.legend = { orientation: "h", y: 1.02, x: 0, yanchor: "bottom" };
  plan.uirevision = axis;
  Plotly.react(element, traces, plan, OPTIONS);
}

const drawAll = () => plots.forEach(draw);
document.querySelectorAll(".swatch").forEach((one) => one.style.setProperty("--swatch", colourAt(Number(one.dataset.place))));
document.querySelectorAll(".axes input").forEach((input) => input.addEventListener("change", drawAll));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
drawAll();
