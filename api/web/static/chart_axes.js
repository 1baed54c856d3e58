// What stands below a chart: steps, or the time, the tokens and the device-hours at which they were reached.
import { getJson } from "./service.js";

const axes = new Map(); // by stage: knots, steps rising

export async function loadAxes() {
  const page = await getJson("/metrics/axes?max_knots=1000");
  for (const axis of page.axes) axes.set(axis.stage, axis.knots);
}

const scaled = (seconds) => (seconds >= 7200 ? [3600, "h"] : seconds >= 120 ? [60, "min"] : [1, "s"]);

// Of a stage in a unit: its title, and a function that gives a knot's value. None where only steps are known.
function measure(stage, unit) {
  const knots = axes.get(stage);
  if (unit === "step" || !knots || knots.length < 2) return null;
  const last = knots.at(-1);
  if (unit === "time") {
    const [divisor, sign] = scaled(last.elapsed_s);
    return { title: `time since the start (${sign})`, of: (knot) => knot.elapsed_s / divisor };
  }
  if (unit === "tokens") return { title: "tokens trained", of: (knot) => knot.tokens };
  const device = last.gpu_hours > 0 ? "gpu_hours" : "cpu_hours";
  const [divisor, sign] = scaled(last[device] * 3600);
  const name = device === "gpu_hours" ? "GPU" : "CPU";
  return { title: `${name}-time held (${name}-${sign})`, of: (knot) => (knot[device] * 3600) / divisor };
}

// The value at `at` of a line through points with rising `x`; beyond its ends it goes on as it was.
function along(points, at, x, y) {
  let low = 0;
  let high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x(points[middle]) <= at) low = middle;
    else high = middle;
  }
  const width = x(points[high]) - x(points[low]);
  if (width === 0) return y(points[low]);
  return y(points[low]) + ((y(points[high]) - y(points[low])) * (at - x(points[low]))) / width;
}

const stepOf = (knot) => knot.step;

// How a chart of this stage turns steps into places on its axis and back.
export function axisOf(stage, unit) {
  const found = measure(stage, unit);
  if (!found) return { title: "step", toX: (step) => step, toStep: (x) => x };
  const knots = axes.get(stage);
  return {
    title: found.title,
    toX: (step) => along(knots, step, stepOf, found.of),
    toStep: (x) => along(knots, x, found.of, stepOf),
  };
}
