// Keeps a study fresh while it goes on, sends the orders of its buttons, and copies the command that runs it again.
import { drawReport } from "./study_report.js";

const INTERVAL_MS = 3000;
const PARTS = ["study-title", "message", "study-runs", "study-widths", "study-report"];
const article = document.getElementById("study");
const api = `/api/v1/studies/${encodeURIComponent(article.dataset.id)}`;
const WATCHED = ["half_widths", "message", "runs", "state"];
const looked = (study) => JSON.stringify(WATCHED.map((name) => sorted(study[name])));
const sorted = (value) => (value && typeof value === "object" ? Object.entries(value).sort() : value);
let seen = looked(JSON.parse(article.dataset.seen));

// The state is asked for often, the whole page only when it has changed: a report takes a while to make.
async function refresh() {
  if (document.hidden || article.dataset.over === "true") return;
  const answer = await fetch(api);
  if (!answer.ok) return;
  const now = looked(await answer.json());
  if (now !== seen) await replaceParts();
  seen = now;
}

async function replaceParts() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of PARTS) replacePart(document.getElementById(id), fresh.getElementById(id));
  article.dataset.over = fresh.getElementById("study").dataset.over;
}

function replacePart(now, next) {
  if (!now || !next) return;
  const told = next.innerHTML;
  if (now.told === told) return;
  const opened = [...now.querySelectorAll("details")].map((one) => one.open);
  const axis = now.querySelector('input[name="step-axis"]:checked')?.value;
  const adopted = document.adoptNode(next);
  adopted.told = told;
  adopted.querySelectorAll("details").forEach((one, place) => (one.open = opened[place] ?? one.open));
  now.replaceWith(adopted);
  if (adopted.id !== "study-report") return;
  const chosen = axis && adopted.querySelector(`input[name="step-axis"][value="${CSS.escape(axis)}"]`);
  if (chosen) chosen.checked = true;
  drawReport();
}

async function act(button) {
  const action = button.dataset.action;
  if (action === "cancel" && !confirm("Cancel everything of this study that has not ended? There is no way back.")) return;
  button.disabled = true;
  const body = action === "resume" ? {} : { headers: { "Content-Type": "application/json" }, body: "{}" };
  const answer = await fetch(`${api}/${action}`, { method: "POST", ...body });
  if (answer.ok) {
    article.dataset.over = "false";
    await replaceParts();
  } else {
    const problem = await answer.json();
    document.getElementById("message").textContent = problem.detail || `HTTP ${answer.status}`;
    button.disabled = false;
  }
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  // Only pages of this machine and those behind TLS may write to the clipboard.
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
  button.textContent = navigator.clipboard ? "copied" : "selected: copy with the keyboard";
}

// What is clicked is replaced with its part, so clicks are heard where nothing is.
article.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action], button[data-copy]");
  if (!button) return;
  const done = button.dataset.copy ? copy(button) : act(button);
  done.catch((error) => (document.getElementById("message").textContent = String(error)));
});
setInterval(() => refresh().catch(() => {}), INTERVAL_MS);
