// Writes a specification: the text is the truth, the form shows what it says and changes it, the service judges both.
import { showPlan } from "./plan_view.js";
import { SpecForm } from "./spec_form.js";
import { SpecSchema } from "./spec_schema.js";
import { TextEditor } from "./text_editor.js";
import { edited, toYaml } from "./yaml_text.js";

const PAUSE_MS = 350;
const kind = document.getElementById("new").dataset.kind;
const api = `/api/v1/${kind === "study" ? "studies" : "experiments"}`;
const page = `/${kind === "study" ? "studies" : "experiments"}`;
const [state, findings, plan, submit, template] = ["state", "findings", "plan", "submit", "template"].map((id) => document.getElementById(id));
const editor = new TextEditor(document.getElementById("text"), document.getElementById("gutter"), () => checkSoon());

let form = null;
let timer = 0;
let checked = null; // the newest answer, with the text that it is about
let running = null;
let key = "";
let changes = Promise.resolve();

const post = (path, body, { headers = {}, signal } = {}) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body), signal });

function checkSoon() {
  clearTimeout(timer);
  submit.disabled = true;
  timer = setTimeout(() => check().catch(said), PAUSE_MS);
}

function said(error) {
  state.className = "problem";
  state.textContent = String(error.message || error);
}

async function check({ fromForm = false } = {}) {
  clearTimeout(timer);
  const text = editor.text;
  if (checked?.text === text) return show(fromForm);
  running?.abort();
  running = new AbortController();
  state.className = "";
  state.textContent = "Checking…";
  let answer;
  try {
    answer = await post(`${api}/validate`, { text }, { signal: running.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    throw error;
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || `HTTP ${answer.status}`);
  if (editor.text !== text) return;
  checked = { ...body, text };
  key = newKey();
  show(fromForm);
}

// A key for each text that was found good: sending it twice makes one experiment.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

function show(fromForm) {
  const count = checked.findings.length;
  submit.disabled = count > 0;
  state.className = count ? "problem" : "succeeded";
  state.textContent = count ? `${count} ${count === 1 ? "finding" : "findings"}: it cannot run like this` : "Ready to be submitted";
  editor.mark(checked.findings.map((one) => one.line));
  findings.replaceChildren(...checked.findings.map(findingRow));
  showPlan(plan, checked, kind);
  if (form && checked.body) form.body = checked.body;
  if (form && checked.body && !fromForm) form.show(checked.body);
  form?.mark(checked.findings);
}

function findingRow(finding) {
  const row = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: `line ${finding.line}` });
  button.addEventListener("click", () => editor.goTo(finding.line));
  const where = Object.assign(document.createElement("strong"), { textContent: finding.field });
  row.append(button, where, `: ${[finding.problem, finding.hint].filter(Boolean).join("; ")}`);
  return row;
}

// One change after the other, each against a text whose places are known.
function change(path, value, isStructural) {
  changes = changes.then(() => apply(path, value, isStructural)).catch(said);
}

async function apply(path, value, isStructural) {
  await check({ fromForm: true });
  if (!checked?.body || checked.text !== editor.text) throw new Error("the text cannot be read; mend it first, then the form can change it");
  const body = structuredClone(checked.body);
  set(body, path, value);
  editor.text = edited(editor.text, checked.places, path, body) ?? toYaml(body);
  await check({ fromForm: !isStructural });
}

function set(body, path, value) {
  const parts = path.split(".");
  const last = parts.pop();
  const holder = parts.reduce((node, part) => (node[part] ??= {}), body);
  if (value === undefined) delete holder[last];
  else holder[last] = value;
}

async function send() {
  submit.disabled = true;
  state.textContent = "Submitting…";
  // The page of a clone shows what it changed.
  const parent = form && new URLSearchParams(location.search).get("from");
  const path = parent ? `${api}?cloned_from=${encodeURIComponent(parent)}` : api;
  const answer = await post(path, checked.body, { headers: { "Idempotency-Key": key } });
  const body = await answer.json();
  if (answer.ok) return location.assign(`${page}/${encodeURIComponent(body.id)}`);
  submit.disabled = false;
  throw new Error(body.detail || `HTTP ${answer.status}`);
}

submit.addEventListener("click", () => send().catch(said));
template.addEventListener("change", () => {
  const chosen = template.selectedOptions[0];
  if (chosen.dataset.text) editor.text = chosen.dataset.text;
  checkSoon();
});

const holder = document.getElementById("form");
if (holder) {
  const schema = await (await fetch("/api/v1/schema/experiment")).json();
  form = new SpecForm(holder, new SpecSchema(schema), change);
}
await check().catch(said);
