// From series as the service tells them to what Plotly draws: lines, bands, smoothed lines, marks for what is no number.
import { COLOURS, colourOf } from "./plot_style.js";

// Numbers that JSON has no sign for arrive as strings.
const number = (raw) => (raw === null ? NaN : Number(raw));

// Plotly reads a few tags in texts; a series' name has none.
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

// Columns of one series: places of the values, what to draw, and where there was something that cannot be drawn.
function columns(one) {
  if (one.kind === "points") {
    const values = one.points.map((point) => number(point.value));
    const steps = one.points.map((point) => point.step);
    const odd = one.points.filter((point) => !Number.isFinite(number(point.value)));
    return { steps, values, odd: odd.map((point) => ({ step: point.step, text: `step ${point.step}: ${point.value}` })) };
  }
  const steps = one.envelope.map((bucket) => bucket.last_step);
  const odd = one.envelope.filter((bucket) => bucket.num_finite < bucket.num_points);
  return {
    steps,
    values: one.envelope.map((bucket) => number(bucket.mean)),
    low: one.envelope.map((bucket) => number(bucket.min)),
    high: one.envelope.map((bucket) => number(bucket.max)),
    odd: odd.map((bucket) => ({
      step: bucket.last_step,
      text: `steps ${bucket.first_step} to ${bucket.last_step}: ${bucket.num_points - bucket.num_finite} of ${bucket.num_points} values are NaN or infinite`,
    })),
  };
}

// Exponential moving average that does not start at zero (its weights are divided by their sum); gaps stay gaps.
export function smoothed(values, weight) {
  let sum = 0;
  let weights = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    sum = weight * sum + (1 - weight) * value;
    weights = weight * weights + (1 - weight);
    return sum / weights;
  });
}

// Only what is seen: the steps in `window` with one neighbour on each side, so that lines reach the edges.
function cut(found, window) {
  if (!window) return found;
  const first = Math.max(found.steps.findIndex((step) => step >= window[0]) - 1, 0);
  const behind = found.steps.findIndex((step) => step > window[1]);
  const end = behind < 0 ? found.steps.length : behind + 1;
  const part = (column) => column && column.slice(first, end);
  return {
    steps: part(found.steps),
    values: part(found.values),
    smooth: part(found.smooth),
    low: part(found.low),
    high: part(found.high),
    odd: found.odd.filter(({ step }) => step >= window[0] && step <= window[1]),
  };
}

function line(found, values, axis, label, style) {
  return {
    x: found.steps.map(axis.toX),
    y: values,
    customdata: found.steps,
    name: plain(label),
    mode: found.steps.length === 1 ? "markers" : "lines",
    line: { width: 1.7, ...style },
    hovertemplate: `%{y:.5g} · step %{customdata:,d}<extra>${plain(label)}</extra>`,
  };
}

function band(found, axis, colour) {
  const edge = { x: found.steps.map(axis.toX), mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" };
  return [
    { ...edge, y: found.high },
    { ...edge, y: found.low, fill: "tonexty", fillcolor: colour + "33" },
  ];
}

function oddMarks(found, axis, label) {
  if (!found.odd.length) return [];
  return [
    {
      x: found.odd.map(({ step }) => axis.toX(step)),
      y: found.odd.map(() => 0.03),
      yaxis: "y2",
      text: found.odd.map(({ text }) => text),
      name: `${plain(label)}: not a number`,
      mode: "markers",
      marker: { symbol: "x-thin-open", size: 8, color: colourOf("--bad"), line: { width: 2 } },
      cliponaxis: false,
      showlegend: false,
      hovertemplate: "%{text}<extra></extra>",
    },
  ];
}

function tracesOfLine(one, label, colour, axis, { smoothing, window }) {
  const whole = columns(one);
  if (smoothing) whole.smooth = smoothed(whole.values, smoothing);
  const found = cut(whole, window);
  const drawn = [];
  if (found.low) drawn.push(...band(found, axis, colour));
  if (found.smooth) {
    const raw = line(found, found.values, axis, label, { color: colour, width: 1 });
    drawn.push({ ...raw, opacity: 0.3, showlegend: false, hoverinfo: "skip", hovertemplate: null });
  }
  drawn.push(line(found, found.smooth || found.values, axis, label, { color: colour }));
  return [...drawn, ...oddMarks(found, axis, label)];
}

function tracesOfPart(one, label, colour, axis, { smoothing, window }) {
  const whole = columns(one);
  if (smoothing) whole.values = smoothed(whole.values, smoothing);
  const found = cut(whole, window);
  const area = line(found, found.values, axis, label, { color: colour, width: 0.5 });
  return [{ ...area, mode: "lines", stackgroup: "parts", fillcolor: colour + "aa" }, ...oddMarks(found, axis, label)];
}

function tracesOfTotal(one, label, axis, { smoothing, window }) {
  const whole = columns(one);
  if (smoothing) whole.values = smoothed(whole.values, smoothing);
  const found = cut(whole, window);
  return [line(found, found.values, axis, label, { color: colourOf("--ink"), width: 1.4, dash: "dot" })];
}

// `series` in the order of the chart's names; a name without values is left out and keeps its colour.
export function tracesOf(series, chart, axis, how) {
  return chart.names.flatMap((name, place) => {
    const one = series.find((candidate) => candidate.name === name);
    if (!one) return [];
    const colour = COLOURS[place % COLOURS.length];
    if (chart.kind !== "stack") return tracesOfLine(one, chart.labels[place], colour, axis, how);
    if (place > 0) return tracesOfPart(one, chart.labels[place], colour, axis, how);
    return tracesOfTotal(one, chart.labels[0], axis, how);
  });
}

// Where later attempts took up: dotted lines with the attempt's number.
export function resumeMarks(series, axis, window) {
  const starts = new Map();
  for (const { number: attempt, first_step: step } of series.flatMap((one) => one.attempts)) {
    starts.set(attempt, Math.min(step, starts.get(attempt) ?? Infinity));
  }
  const first = Math.min(...starts.keys());
  const later = [...starts].filter(([attempt, step]) => attempt > first && (!window || (step >= window[0] && step <= window[1])));
  const colour = colourOf("--muted");
  const shapes = later.map(([, step]) => ({
    x0: axis.toX(step),
    x1: axis.toX(step),
    yref: "paper",
    y0: 0,
    y1: 1,
    line: { color: colour, width: 1, dash: "dot" },
  }));
  const annotations = later.slice(-4).map(([attempt, step]) => ({
    x: axis.toX(step),
    yref: "paper",
    y: 1,
    yanchor: "top",
    xanchor: "left",
    text: `attempt ${attempt}`,
    showarrow: false,
    font: { size: 10, color: colour },
  }));
  return { shapes, annotations };
}
