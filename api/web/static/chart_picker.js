// All metrics of the experiment, and a chart for any of them that no default chart shows.
import { abandon, adopt, charts, makeFigure } from "./charts.js";
import { article, getJson } from "./service.js";

const KEY = `sedray.picked.${article.dataset.id}`;
const panel = document.getElementById("more-metrics");
const list = panel.querySelector("ul");
const search = panel.querySelector("input");
const shelf = panel.querySelector(".charts");
const picked = new Map(); // charts by name
let known = [];

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) || "[]");
  } catch {
    return [];
  }
}

function remember() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...picked.keys()]));
  } catch {
    // Nothing is stored; the charts go with the page.
  }
}

function pick(metric) {
  const { name, unit, stage, meaning } = metric;
  const figure = makeFigure({ names: [name], labels: [name], stage, unit, title: name, meaning });
  const close = document.createElement("button");
  Object.assign(close, { type: "button", className: "tool", textContent: "×" });
  close.setAttribute("aria-label", `Remove ${name}`);
  close.addEventListener("click", () => drop(name));
  figure.querySelector(".tools").append(close);
  shelf.append(figure);
  picked.set(name, adopt(figure));
}

function drop(name) {
  abandon(picked.get(name));
  picked.delete(name);
  remember();
  show();
}

const shown = (value) => (Number.isFinite(Number(value)) ? Number(Number(value).toPrecision(4)).toLocaleString() : String(value));

function entry(metric) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "metric";
  button.title = metric.meaning;
  button.setAttribute("aria-pressed", String(picked.has(metric.name)));
  const name = document.createElement("span");
  name.textContent = metric.name;
  const value = document.createElement("small");
  value.textContent = `${shown(metric.last_value)} ${metric.unit}`;
  button.append(name, value);
  button.addEventListener("click", () => {
    if (picked.has(metric.name)) return drop(metric.name);
    pick(metric);
    remember();
    show();
  });
  item.append(button);
  return item;
}

function show() {
  const word = search.value.trim().toLowerCase();
  const found = known.filter(({ name, meaning }) => `${name} ${meaning}`.toLowerCase().includes(word));
  list.replaceChildren(...found.map(entry));
  panel.querySelector(".count").textContent = `${found.length} of ${known.length}`;
}

export async function refreshPicker() {
  const { items } = await getJson("/metrics/names");
  const onPage = new Set(charts.filter((chart) => !shelf.contains(chart.figure)).flatMap((chart) => chart.names));
  known = items.filter(({ name }) => !onPage.has(name));
  for (const metric of known) if (remembered().includes(metric.name) && !picked.has(metric.name)) pick(metric);
  show();
}

search.addEventListener("input", show);
panel.querySelector("details").addEventListener("toggle", () => refreshPicker().catch(() => {}));
