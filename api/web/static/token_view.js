// Held-out samples token by token, before and after training: which of them are shown, and how they are walked through.
import { article, getJson } from "./service.js";
import { COLOURINGS, drawPanes, paint, point, reach, readView } from "./token_panes.js";

const REFRESH_MS = 5000;
const NOTHING = "";
const ALL = "all";
const MOST_AT_ONCE = 16;

const panel = document.getElementById("token-view");
const choice = Object.fromEntries([...panel.querySelectorAll("select")].map((select) => [select.name, select]));
const panes = panel.querySelector(".panes");
let touched = false; // as long as nobody has looked closer, the newest step is shown
let known = { steps: [], samples: [] }; // what there is to choose from
let shown = { choice: "", views: [] };
let pointed = { sample: 0, place: 0 };
let request = 0; // answers to older choices are dropped

function fill(select, options, wanted) {
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = options.some(([key]) => String(key) === wanted) ? wanted : options[0][0];
}

function offer() {
  const { steps, samples } = known;
  const named = steps.map((step) => [step, step === 0 ? "0, before training" : step]);
  const all = samples.length > 1 && samples.length <= MOST_AT_ONCE ? [[ALL, `all ${samples.length}`]] : [];
  const newest = steps.length > 1 ? String(steps.at(-1)) : NOTHING;
  fill(choice.sample, [...all, ...samples.map((sample) => [sample, sample])], choice.sample.value);
  fill(choice.before, named, touched ? choice.before.value : String(steps[0]));
  fill(choice.after, [[NOTHING, "nothing"], ...named], touched ? choice.after.value : newest);
}

function colour() {
  paint(shown.views, COLOURINGS[choice.colour.value], panel.querySelector(".legend"));
  lookAt(pointed);
}

function lookAt(token) {
  pointed = token;
  point(shown.views, pointed, panel.querySelector(".readout tbody"));
}

const chosen = () => [choice.sample, choice.before, choice.after].map((select) => select.value).join();

async function show() {
  if (chosen() === shown.choice) return;
  const mine = ++request;
  const answered = chosen();
  const samples = choice.sample.value === ALL ? known.samples : [choice.sample.value];
  const steps = [choice.before.value, choice.after.value].filter((step) => step !== NOTHING);
  const reading = steps.map((step) => Promise.all(samples.map((sample) => getJson(`/token-views/sft/${step}/${sample}`))));
  const sides = (await Promise.all(reading)).map((views) => views.map(readView));
  if (mine !== request) return;
  const views = sides.flat();
  shown = { choice: answered, views };
  const colourings = Object.entries(COLOURINGS).filter(([, colouring]) => colouring.fits(views));
  fill(choice.colour, colourings.map(([key, { label }]) => [key, label]), choice.colour.value);
  panel.querySelector(".mass").textContent = `top-${views[0].top_k} mass`;
  drawPanes(panes, sides);
  const first = views[0].tokens.findIndex((token) => token.trained);
  pointed = { sample: views[0].sample_index, place: Math.max(first, 0) };
  colour();
}

async function refresh() {
  const rising = (entries, name) => entries.map((entry) => entry[name]).sort((one, other) => one - other);
  const steps = rising((await getJson("/token-views?stage=sft&sample_index=0&limit=1000")).items, "step");
  if (!steps.length) return;
  if (String(steps) !== String(known.steps)) {
    const { items } = await getJson(`/token-views?stage=sft&step=${steps[0]}&limit=1000`);
    known = { steps, samples: rising(items, "sample_index") };
    offer();
    panel.querySelector(".waiting").hidden = true;
    panel.querySelector(".looking").hidden = false;
  }
  await show();
}

function tokenOf(event) {
  const span = event.target.closest(".token[data-place]");
  return span && { sample: Number(span.dataset.sample), place: Number(span.dataset.place) };
}

function move(event) {
  const view = shown.views.find((one) => one.spans.includes(event.target));
  if (!view) return;
  const place = view.spans.indexOf(event.target);
  const last = view.spans.length - 1;
  const goal = { ArrowRight: Math.min(place + 1, last), ArrowLeft: Math.max(place - 1, 0), Home: 0, End: last }[event.key];
  if (goal === undefined) return;
  event.preventDefault();
  reach(view, goal);
  view.spans[goal].focus();
}

for (const kind of ["mouseover", "focusin"]) {
  panes.addEventListener(kind, (event) => {
    const token = tokenOf(event);
    if (!token) return;
    touched = true;
    lookAt(token);
  });
}
panes.addEventListener("keydown", move);
choice.colour.addEventListener("change", colour);
for (const select of [choice.sample, choice.before, choice.after]) {
  select.addEventListener("change", () => {
    touched ||= select !== choice.sample;
    show().catch(() => {});
  });
}
refresh().catch(() => {});
if (article.dataset.terminal === "false") setInterval(() => refresh().catch(() => {}), REFRESH_MS);
