// Live view of one experiment: charts, course, progress, events and log, fed by the stream of server-sent events.
// Text from runs is set as textContent only, so nothing in a name, prompt or completion can become markup.
import { drawHistogram } from "./calibration_histogram.js";
import { refreshPicker } from "./chart_picker.js";
import { connect, onChange } from "./chart_settings.js";
import { adopt, charts, redraw, restyle } from "./charts.js";
import { element, timeOf } from "./elements.js";
import { showNewLines } from "./logs.js";
import { refreshOutputs } from "./outputs.js";
import { tellOfNewRollouts } from "./rollouts.js";
import { api, article } from "./service.js";
import { refreshTimeline } from "./timeline.js";

const REFRESH_MS = 1500;
const TIMELINE_MS = 5000;
const changed = new Set();
const calibration = document.getElementById("calibration");

function reveal(names) {
  for (const chart of charts) {
    if (!chart.figure.hidden || !chart.names.some((name) => names.has(name))) continue;
    chart.figure.hidden = false;
    chart.figure.closest(".chart-group").hidden = false;
  }
}

async function redrawChanged() {
  if (!changed.size || document.hidden) return;
  const names = new Set(changed);
  changed.clear();
  reveal(names);
  const due = charts.filter((chart) => chart.names.some((name) => names.has(name)));
  await redraw(due).catch(() => names.forEach((name) => changed.add(name)));
}

function showEvent(event) {
  const row = element("tr", [element("td", [timeOf(event.ts, { short: true })]), element("td", event.message)]);
  row.id = `event-${event.id}`;
  document.querySelector("#events tbody").append(row);
  if (event.kind === "status") {
    const status = document.getElementById("status");
    status.textContent = event.detail.to;
    status.className = `status ${event.detail.to}`;
    refreshParts().catch(() => {});
  }
  if (event.kind === "tau_calibrated" && calibration) showCalibration(event.detail);
  if (event.kind === "stage") {
    refreshParts().catch(() => {});
    refreshOutputs();
  }
  refreshTimeline().catch(() => {});
}

function showCalibration(told) {
  if (told.counts) drawHistogram(calibration, told);
  else calibration.textContent = "not calibrated yet";
}

function showProgress(progress) {
  const found = progress && progress.stage && document.querySelector(`tr[data-stage="${CSS.escape(progress.stage)}"]`);
  if (!found) return;
  const bar = found.querySelector("progress");
  bar.max = Math.max(progress.num_steps, 1);
  bar.value = progress.step;
  found.querySelector(".steps").textContent = `${progress.step} / ${progress.num_steps}`;
  found.querySelector(".phase").textContent = progress.phase;
}

// What the server makes is made anew there; charts, filters and the reader's place stay as they are.
async function refreshParts() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const now of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(now.id);
    if (next && now.innerHTML !== next.innerHTML) now.replaceWith(document.adoptNode(next));
  }
  inReadersZone();
}

function follow() {
  // The page already shows the events up to its making; the browser itself resumes after a broken connection.
  const source = new EventSource(`${api}/stream?last_event_id=${article.dataset.lastEvent}.0.0`);
  source.addEventListener("event", (message) => showEvent(JSON.parse(message.data)));
  source.addEventListener("metrics", (message) => {
    for (const { name } of JSON.parse(message.data).values) changed.add(name);
    if (changed.has("reward/mean")) tellOfNewRollouts();
  });
  source.addEventListener("progress", (message) => showProgress(JSON.parse(message.data)));
  source.addEventListener("logs", () => showNewLines().catch(() => {}));
  const timers = [
    setInterval(() => redrawChanged(), REFRESH_MS),
    setInterval(() => document.hidden || refreshTimeline().catch(() => {}), TIMELINE_MS),
  ];
  source.addEventListener("end", async () => {
    source.close();
    timers.forEach(clearInterval);
    article.dataset.terminal = "true";
    await Promise.allSettled([redrawChanged(), refreshParts(), refreshTimeline(), refreshPicker()]);
  });
}

async function act(button) {
  button.disabled = true;
  const answer = await fetch(`${api}/${button.dataset.action}`, { method: "POST" });
  if (answer.ok) return location.reload();
  const problem = await answer.json().catch(() => ({ detail: `HTTP ${answer.status}` }));
  document.getElementById("message").textContent = problem.detail;
  button.disabled = false;
}

function inReadersZone() {
  for (const time of document.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    time.textContent = time.dataset.form === "clock" ? moment.toLocaleTimeString() : moment.toLocaleString();
    time.title = moment.toLocaleString();
  }
}

// The head is made anew while the run goes on, so clicks are heard where nothing is.
article.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button).catch((error) => (document.getElementById("message").textContent = String(error)));
});
inReadersZone();
connect(document.getElementById("chart-settings"));
for (const figure of document.querySelectorAll("figure.plot[data-names]")) adopt(figure);
onChange(() => restyle().catch(() => {}));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => restyle().catch(() => {}));
if (calibration) showCalibration(JSON.parse(calibration.dataset.histogram));
refreshPicker().catch(() => {});
refreshTimeline().catch(() => {});
if (article.dataset.terminal === "false") follow();
