// The histogram of top-k masses behind SED's threshold.
import { OPTIONS, colourOf, layout } from "./plot_style.js";

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
