// The rollout browser: stored completions by reward, step, length and text, page by page.
import { element, numberText } from "./elements.js";
import { api, getJson } from "./service.js";

const PAGE = 25;
const section = document.getElementById("rollouts");
const form = document.getElementById("rollout-filters");
const told = section.querySelector(".told");
const [before, next] = [section.querySelector("button.before"), section.querySelector("button.next")];
let cursors = [null]; // of the pages up to the one that is shown
let following = null; // of the page behind it
let request = 0; // answers to older questions are dropped

const ofStore = () => form.elements.source.value !== "kept";

function showFields() {
  for (const field of form.querySelectorAll("[data-of]")) field.hidden = (field.dataset.of === "store") !== ofStore();
}

// What was filled in, as the service takes it; `source` chooses where to ask.
function query() {
  const wanted = new URLSearchParams();
  for (const field of form.elements) {
    const holder = field.closest("[data-of]");
    if (!field.name || !holder || holder.hidden || field.value === "") continue;
    wanted.set(field.name, field.value);
  }
  if (ofStore()) wanted.set("store", form.elements.source.value);
  return wanted;
}

function completionCell(text) {
  const code = element("code", text, "long");
  const holder = element("td", [code]);
  return holder;
}

function partsOf(rollout) {
  const parts = Object.entries(rollout.reward_parts ?? {});
  if (parts.length < 2) return [];
  const list = element("dl", undefined, "parts");
  for (const [name, value] of parts) list.append(element("dt", name), element("dd", value === null ? "not judged" : numberText(value)));
  return [list];
}

function promptCell(rollout) {
  const cell = completionCell(rollout.prompt);
  const number = element("small", `prompt ${rollout.prompt_uid}`);
  if (!ofStore()) {
    cell.append(element("br"), number);
    return cell;
  }
  const same = element("button", "over the steps", "link");
  same.type = "button";
  same.setAttribute("aria-label", `Prompt ${rollout.prompt_uid} over the steps`);
  same.addEventListener("click", () => overSteps(rollout.prompt_uid));
  const answer = rollout.answer ? [element("br"), element("small", `answer: ${rollout.answer}`)] : [];
  cell.append(...answer, element("br"), number, " ", same);
  return cell;
}

const STORE_COLUMNS = [
  ["Step", (rollout) => element("td", rollout.step, "number")],
  ["Prompt", promptCell],
  ["Completion", (rollout) => completionCell(rollout.completion)],
  ["Reward", (rollout) => element("td", [element("b", numberText(rollout.reward)), ...partsOf(rollout)], "number")],
  ["Advantage", (rollout) => element("td", rollout.is_trained === false ? "not trained" : numberText(rollout.advantage), "number")],
  ["Tokens", (rollout) => element("td", `${rollout.num_tokens}${rollout.finish_reason === "length" ? " (cut)" : ""}`, "number")],
  ["Age", (rollout) => element("td", rollout.age, "number")],
];
const KEPT_COLUMNS = [
  ["Stage", (sample) => element("td", sample.stage)],
  ...STORE_COLUMNS.filter(([name]) => !["Advantage", "Age"].includes(name)),
];

function draw(items) {
  const columns = ofStore() ? STORE_COLUMNS : KEPT_COLUMNS;
  const numbers = new Set(["Step", "Reward", "Advantage", "Tokens", "Age"]);
  const heads = columns.map(([name]) => element("th", name, numbers.has(name) ? "number" : ""));
  section.querySelector("thead").replaceChildren(element("tr", heads));
  const rows = items.map((item) => element("tr", columns.map(([, cellOf]) => cellOf(item))));
  section.querySelector("tbody").replaceChildren(...rows);
  // What scrolls must be reachable by keyboard.
  for (const code of section.querySelectorAll("code.long")) if (code.scrollHeight > code.clientHeight + 1) code.tabIndex = 0;
}

async function ask(cursor) {
  const wanted = query();
  wanted.set("limit", PAGE);
  if (!ofStore()) {
    if (cursor) wanted.set("before", cursor);
    const { items, next_before: nextBefore } = await getJson(`/rollouts?${wanted}`);
    return { items, cursor: nextBefore, path: `/rollouts?${wanted}` };
  }
  if (cursor) wanted.set("cursor", cursor);
  const { items, next_cursor: nextCursor } = await getJson(`/rollouts/search?${wanted}`);
  return { items, cursor: nextCursor, path: `/rollouts/search?${wanted}` };
}

async function show() {
  const mine = ++request;
  told.textContent = "looking …";
  try {
    const page = await ask(cursors.at(-1));
    if (mine !== request) return;
    following = page.cursor;
    draw(page.items);
    link(page.path);
    told.textContent = page.items.length ? "" : following ? "nothing on this page; there is more behind it" : "nothing found";
  } catch (error) {
    if (mine !== request) return;
    following = null;
    draw([]);
    told.textContent = `${error.message}${error.status === 503 ? " “All stages: some to read” come from the database." : ""}`;
  }
  before.disabled = cursors.length < 2;
  next.disabled = !following;
  section.querySelector(".place").textContent = `page ${cursors.length}`;
}

function link(path) {
  section.querySelector("a.json").href = api + path;
  const parquet = section.querySelector("a.parquet");
  const wanted = query();
  // In the order of a value an export needs a limit.
  if (!wanted.get("order")?.endsWith("step")) wanted.set("order", "step");
  parquet.hidden = !ofStore();
  parquet.href = `${api}/rollouts/search?${wanted}&format=parquet`;
}

function anew() {
  cursors = [null];
  return show();
}

function overSteps(uid) {
  const { source } = form.elements;
  const kept = source.value;
  form.reset();
  source.value = kept;
  form.elements.prompt_uid.value = uid;
  form.elements.order.value = "step";
  anew();
  section.scrollIntoView();
}

// While the run goes on nothing moves under the reader's eyes: new ones come when asked for.
export function tellOfNewRollouts() {
  if (told.textContent || cursors.length > 1) return;
  const button = element("button", "There are newer ones: show", "link");
  button.type = "button";
  button.addEventListener("click", anew);
  told.replaceChildren(button);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  anew();
});
form.addEventListener("reset", () =>
  setTimeout(() => {
    showFields();
    anew();
  }),
);
form.elements.source.addEventListener("change", () => {
  showFields();
  anew();
});
before.addEventListener("click", () => {
  cursors.pop();
  show();
});
next.addEventListener("click", () => {
  cursors.push(following);
  show();
});
showFields();
show();
