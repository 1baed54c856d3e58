// Live view of one experiment: charts, progress, events, rollouts and log, fed by the stream of server-sent events.
// Text from runs is set as textContent only, so nothing in a name, prompt or completion can become markup.
import { charts, draw, drawHistogram } from "./charts.js";
import { api, article, getJson } from "./service.js";

const REFRESH_MS = 1500;
const changed = new Set();
const calibration = document.getElementById("calibration");

async function redrawChanged() {
  const names = new Set(changed);
  changed.clear();
  const due = charts.filter((chart) => chart.names.some((name) => names.has(name)));
  await Promise.all(due.map((chart) => draw(chart).catch(() => chart.names.forEach((name) => changed.add(name)))));
}

function cell(text, className) {
  const element = document.createElement("td");
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function row(table, cells) {
  const element = document.createElement("tr");
  element.append(...cells);
  document.querySelector(`#${table} tbody`).append(element);
}

function showEvent(event) {
  const time = document.createElement("td");
  time.textContent = new Date(event.ts).toLocaleTimeString();
  row("events", [time, cell(event.message)]);
  if (event.kind === "status") {
    const status = document.getElementById("status");
    status.textContent = event.detail.to;
    status.className = `status ${event.detail.to}`;
  }
  if (event.kind === "tau_calibrated" && calibration) showCalibration(event.detail);
  if (event.kind === "stage" && event.detail.stage) finishStage(event.detail);
}

function showCalibration(told) {
  if (told.counts) drawHistogram(calibration, told);
  else calibration.textContent = "not calibrated yet";
}

function stageRow(name) {
  return document.querySelector(`tr[data-stage="${CSS.escape(name)}"]`);
}

function finishStage(detail) {
  const found = stageRow(detail.stage);
  if (!found) return;
  const bar = found.querySelector("progress");
  bar.value = bar.max;
  found.querySelector(".steps").textContent = `${bar.max} / ${bar.max}`;
  found.querySelector(".phase").textContent = "done";
  if (detail.duration_s !== undefined) found.querySelector(".took").textContent = `${Number(detail.duration_s).toFixed(1)} s`;
}

function showProgress(progress) {
  const found = progress && progress.stage && stageRow(progress.stage);
  if (!found) return;
  const bar = found.querySelector("progress");
  bar.max = Math.max(progress.num_steps, 1);
  bar.value = progress.step;
  found.querySelector(".steps").textContent = `${progress.step} / ${progress.num_steps}`;
  found.querySelector(".phase").textContent = progress.phase;
}

async function showRollouts() {
  const { items } = await getJson("/rollouts?limit=12");
  document.querySelector("#rollouts tbody").replaceChildren();
  for (const sample of items) {
    const texts = [sample.prompt, sample.completion].map((text) => {
      const holder = document.createElement("td");
      const code = document.createElement("code");
      code.textContent = text;
      holder.append(code);
      return holder;
    });
    row("rollouts", [cell(sample.stage), cell(sample.step, "number"), ...texts, cell(sample.reward, "number")]);
  }
}

let logBusy = false;
async function showLog() {
  if (logBusy) return;
  logBusy = true;
  try {
    const log = document.getElementById("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    const { items } = await getJson(`/logs?after=${log.dataset.last}&limit=2000`);
    for (const line of items) {
      log.append(document.createTextNode(line.text + "\n"));
      log.dataset.last = line.id;
    }
    if (atEnd) log.scrollTop = log.scrollHeight;
  } finally {
    logBusy = false;
  }
}

function follow() {
  // The page already shows the events up to its making; the browser itself resumes after a broken connection.
  const source = new EventSource(`${api}/stream?last_event_id=${article.dataset.lastEvent}.0.0`);
  source.addEventListener("event", (message) => showEvent(JSON.parse(message.data)));
  source.addEventListener("metrics", (message) => JSON.parse(message.data).values.forEach((value) => changed.add(value.name)));
  source.addEventListener("progress", (message) => showProgress(JSON.parse(message.data)));
  source.addEventListener("logs", () => showLog().catch(() => {}));
  source.addEventListener("end", () => {
    source.close();
    setTimeout(() => location.reload(), REFRESH_MS + 500);
  });
  setInterval(() => redrawChanged(), REFRESH_MS);
  setInterval(() => showRollouts().catch(() => {}), 4000);
}

async function act(button) {
  button.disabled = true;
  const answer = await fetch(`${api}/${button.dataset.action}`, { method: "POST" });
  if (answer.ok) return location.reload();
  const problem = await answer.json().catch(() => ({ detail: `HTTP ${answer.status}` }));
  document.getElementById("message").textContent = problem.detail;
  button.disabled = false;
}

document.querySelectorAll("button[data-action]").forEach((button) => button.addEventListener("click", () => act(button)));
document.querySelectorAll("time").forEach((element) => (element.textContent = new Date(element.dateTime).toLocaleString()));
document.getElementById("log").scrollTop = document.getElementById("log").scrollHeight;
charts.forEach((chart) => draw(chart).catch(() => (chart.element.textContent = "no values yet")));
if (calibration) showCalibration(JSON.parse(calibration.dataset.histogram));
if (article.dataset.terminal === "false") follow();
