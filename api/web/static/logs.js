// The log: newest lines at first, then live; searched and narrowed by the service, older lines on demand.
import { element, timeOf } from "./elements.js";
import { getJson } from "./service.js";

const PAGE = 500;
const MOST_LINES = 20000; // beyond it the oldest ones leave the page
const log = document.getElementById("log");
const form = document.getElementById("log-filters");
const told = form.querySelector(".told");
const older = form.querySelector(".older");
let wanted = new URLSearchParams(); // what was asked for, as the lines show it
let isBusy = false;
let question = 0; // lines that belong to an older one are dropped

// The line's text, with what was searched for marked.
function marked(text) {
  const search = wanted.get("search");
  if (!search) return [document.createTextNode(text)];
  const parts = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(search.toLowerCase()); at >= 0; at = lower.indexOf(search.toLowerCase(), from)) {
    parts.push(text.slice(from, at), element("mark", text.slice(at, at + search.length)));
    from = at + search.length;
  }
  return [...parts, text.slice(from)];
}

function lineOf({ id, ts, source, text }) {
  const made = element("div", [timeOf(ts, { short: true }), " ", element("span", source, "who"), " ", element("span", marked(text), "text")], "line");
  made.dataset.id = id;
  return made;
}

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;

function append(items) {
  const follow = isAtEnd();
  log.append(...items.map(lineOf));
  if (items.length) log.dataset.last = items.at(-1).id;
  if (follow) {
    while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  }
}

// What was written since the last look.
export async function showNewLines() {
  if (isBusy) return;
  isBusy = true;
  const mine = question;
  try {
    let next = Number(log.dataset.last);
    while (next !== null) {
      const page = await getJson(`/logs?${wanted}&after=${next}&limit=2000`);
      if (mine !== question) return;
      append(page.items);
      next = page.next_after;
      if (next !== null) log.dataset.last = next;
    }
  } finally {
    isBusy = false;
  }
}

function noteOlder(before) {
  log.dataset.nextBefore = before ?? "";
  older.disabled = before === null;
}

// `by` is a role or one process of it: "role=Trainer", "source=Trainer:4711".
function asked() {
  const given = [...new FormData(form)].filter(([, value]) => value !== "");
  return new URLSearchParams(given.map(([name, value]) => (name === "by" ? [value.split("=")[0], value.slice(value.indexOf("=") + 1)] : [name, value])));
}

async function showNewest() {
  wanted = asked();
  const mine = ++question;
  told.textContent = "looking …";
  const page = await getJson(`/logs?${wanted}&tail=${PAGE}`);
  if (mine !== question) return;
  log.replaceChildren(...page.items.map(lineOf));
  log.dataset.last = page.items.at(-1)?.id ?? log.dataset.last;
  noteOlder(page.next_before);
  log.scrollTop = log.scrollHeight;
  const more = page.next_before === null ? "" : " newest";
  told.textContent = wanted.size ? `${page.items.length}${more} lines found` : "";
}

async function showOlder() {
  const page = await getJson(`/logs?${wanted}&tail=${PAGE}&before=${log.dataset.nextBefore}`);
  const height = log.scrollHeight;
  log.prepend(...page.items.map(lineOf));
  log.scrollTop += log.scrollHeight - height;
  noteOlder(page.next_before);
  if (!page.items.length) told.textContent = page.next_before === null ? "no older lines" : "nothing in these; older ones remain";
}

const attempt = (work) => work().catch((error) => (told.textContent = error.message));

const roleOf = (source) => source.split(":")[0];

async function offerSources() {
  const { items } = await getJson("/logs/sources");
  const select = form.elements.by;
  const chosen = select.value;
  const options = [new Option("everybody", "")];
  for (const role of new Set(items.map(roleOf))) {
    const own = items.filter((source) => roleOf(source) === role);
    options.push(new Option(own.length > 1 ? `${role}, all ${own.length}` : role, `role=${role}`));
    if (own.length > 1) options.push(...own.map((source) => new Option(`\u2003${source}`, `source=${source}`)));
  }
  select.replaceChildren(...options);
  select.value = chosen;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(showNewest);
});
for (const name of ["by", "attempt"]) form.elements[name].addEventListener("change", () => attempt(showNewest));
form.elements.search.addEventListener("search", ({ target }) => target.value || attempt(showNewest)); // cleared by its cross
form.elements.by.addEventListener("focus", () => offerSources().catch(() => {}));
older.addEventListener("click", () => attempt(showOlder));
offerSources().catch(() => {});
log.scrollTop = log.scrollHeight;
