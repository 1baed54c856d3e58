// Charts of the experiment's series. Zooming reads the stretch again in detail; what is zoomed stays so while the run
// goes on. Plotly is a script of its own.
import { axisOf, loadAxes } from "./chart_axes.js";
import { settings } from "./chart_settings.js";
import { resumeMarks, tracesOf } from "./chart_traces.js";
import { OPTIONS, colourOf, layout } from "./plot_style.js";
import { api, getJson } from "./service.js";

const MAX_POINTS = 600;
const WARM_UP = 0.5; // of the width of a zoomed stretch is read before it, so that smoothing is warm at its edge

export const charts = [];
const seen = new Map(); // charts by their figures, for the observer
let rereading = 0; // the timer of zoomed charts that are to be read again

function queryOf(names, window) {
  const query = new URLSearchParams(names.map((name) => ["name", name]));
  query.set("max_points", MAX_POINTS);
  if (window) {
    const [first, last] = [Math.max(Math.floor(window[0]), 0), Math.ceil(window[1])];
    const before = settings.smoothing ? Math.ceil((last - first) * WARM_UP) : 0;
    query.set("from_step", Math.max(first - before - 1, 0));
    query.set("to_step", last + 1);
    if (before) query.set("max_points", Math.ceil(MAX_POINTS * (1 + WARM_UP)));
  }
  return query;
}

const read = async (names, window) => (await getJson(`/metrics?${queryOf(names, window)}`)).series;

// A chart in the page: `figure` carries names, labels and stage; adopted charts are drawn when they come into sight.
export function adopt(figure) {
  const { names, labels, stage, kind } = figure.dataset;
  const chart = {
    figure,
    element: figure.querySelector(".chart"),
    names: names.split(","),
    labels: labels.split(","),
    stage,
    kind: kind || "lines",
    window: null, // the steps that are zoomed to
    isDrawn: false,
    isVisible: false,
    isStale: true,
    series: [], // as last drawn
    request: 0,
  };
  charts.push(chart);
  seen.set(figure, chart);
  figure.querySelector(".unzoom").addEventListener("click", () => zoom(chart, null));
  const expand = figure.querySelector(".expand");
  expand.addEventListener("click", () => {
    const isLarge = figure.classList.toggle("large");
    expand.setAttribute("aria-pressed", String(isLarge));
    if (chart.isDrawn) Plotly.Plots.resize(chart.element);
  });
  sight.observe(figure);
  return chart;
}

export function abandon(chart) {
  charts.splice(charts.indexOf(chart), 1);
  sight.unobserve(chart.figure);
  Plotly.purge(chart.element);
  chart.figure.remove();
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) seen.get(target).isVisible = isIntersecting;
    redraw(charts.filter((chart) => chart.isVisible && chart.isStale)).catch(() => {});
  },
  { rootMargin: "400px" },
);

// Draws what is in sight; the rest waits until it is.
export async function redraw(due) {
  for (const chart of due) chart.isStale = true;
  const visible = due.filter((chart) => chart.isVisible);
  if (!visible.length) return;
  for (const chart of visible) chart.isStale = false;
  try {
    if (settings.unit !== "step") await loadAxes();
    const whole = visible.filter((chart) => !chart.window);
    const names = [...new Set(whole.flatMap((chart) => chart.names))];
    const series = names.length ? await read(names, null) : [];
    await Promise.all(whole.map((chart) => draw(chart, series)));
    await Promise.all(visible.filter((chart) => chart.window).map(detail));
  } catch (error) {
    for (const chart of visible) chart.isStale = true;
    throw error;
  }
}

// Draws again what is there, after another choice of axes or smoothing. Zoomed charts are then read again: their smoothing
// begins before their edge.
export async function restyle() {
  if (settings.unit !== "step") await loadAxes();
  for (const chart of charts) chart.isStale ||= !chart.isVisible;
  await Promise.all(charts.filter((chart) => chart.isVisible && chart.isDrawn).map((chart) => draw(chart, chart.series)));
  clearTimeout(rereading);
  rereading = setTimeout(() => redraw(charts.filter((chart) => chart.window)).catch(() => {}), 300);
}
async function detail(chart) {
  const mine = ++chart.request;
  const series = await read(chart.names, chart.window);
  if (mine === chart.request) await draw(chart, series);
}

async function draw(chart, all) {
  const series = all.filter((one) => chart.names.includes(one.name));
  if (!series.length && !chart.isDrawn) {
    chart.element.textContent = "no values yet";
    return;
  }
  if (!chart.isDrawn) chart.element.textContent = "";
  chart.series = series;
  const axis = axisOf(chart.stage, settings.unit);
  const how = { smoothing: settings.smoothing, window: chart.window };
  const plan = planOf(chart, axis);
  const { shapes, annotations } = resumeMarks(series, axis, chart.window);
  Object.assign(plan, { shapes, annotations });
  const traces = tracesOf(series, chart, axis, how);
  const level = onlyLevel(traces);
  // Around a line at 0.001 Plotly would draw from -1 to 1.
  if (level && plan.yaxis.type === "linear") plan.yaxis.range = [Math.min(0, 2 * level), Math.max(0, 2 * level)];
  await Plotly.react(chart.element, traces, plan, { ...OPTIONS, doubleClick: false });
  if (!chart.isDrawn) listen(chart);
  chart.isDrawn = true;
}

// The value of lines that all keep one; undefined where they do not.
function onlyLevel(traces) {
  const values = new Set(traces.flatMap((trace) => Array.from(trace.y ?? []).filter(Number.isFinite)));
  return values.size === 1 ? values.values().next().value : undefined;
}

function planOf(chart, axis) {
  const plan = layout(axis.title, chart.names.length > 1);
  plan.uirevision = JSON.stringify([settings, chart.window]);
  // Above the plot, with room for a second row; series that the reader has switched off stay so.
  plan.margin.t = chart.names.length > 3 ? 46 : chart.names.length > 1 ? 28 : 10;
  Object.assign(plan.legend, { y: 1.02, yanchor: "bottom", font: { size: 10 }, uirevision: "kept" });
  plan.xaxis.type = settings.logX ? "log" : "linear";
  plan.yaxis.type = settings.logY && chart.kind === "lines" ? "log" : "linear";
  plan.yaxis.fixedrange = true;
  if (chart.kind === "stack") plan.yaxis.rangemode = "tozero";
  plan.yaxis2 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
  plan.dragmode = "zoom";
  plan.hoverlabel = { bgcolor: colourOf("--paper"), bordercolor: colourOf("--line"), font: { color: colourOf("--ink"), size: 11 } };
  if (chart.window) {
    const range = chart.window.map(axis.toX);
    plan.xaxis.range = settings.logX ? range.map((x) => Math.log10(Math.max(x, 1e-9))) : range;
    plan.xaxis.autorange = false;
  } else plan.xaxis.autorange = true;
  return plan;
}

function listen(chart) {
  chart.element.on("plotly_relayout", (change) => {
    const range = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (!range.every(Number.isFinite)) return;
    const axis = axisOf(chart.stage, settings.unit);
    zoom(chart, range.map((x) => axis.toStep(settings.logX ? 10 ** x : x)));
  });
  chart.element.on("plotly_doubleclick", () => zoom(chart, null));
}

export function zoom(chart, window) {
  chart.window = window;
  chart.figure.querySelector(".unzoom").hidden = !window;
  redraw([chart]).catch(() => {});
}

// A figure for series that no chart of the page shows.
export function makeFigure({ names, labels, stage, unit, title, meaning }) {
  const figure = document.getElementById("chart-figure").content.firstElementChild.cloneNode(true);
  Object.assign(figure.dataset, { names: names.join(","), labels: labels.join(","), stage, kind: "lines" });
  const caption = figure.querySelector(".chart-title");
  caption.textContent = title;
  caption.title = meaning;
  figure.querySelector("small").textContent = unit;
  figure.querySelector(".expand").setAttribute("aria-label", `Enlarge ${title}`);
  figure.querySelector(".json").href = `${api}/metrics?${new URLSearchParams(names.map((name) => ["name", name]))}`;
  figure.querySelector(".json").setAttribute("aria-label", `${title} as JSON`);
  return figure;
}
