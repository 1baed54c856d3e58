// Held-out samples token by token, before and after training: a token's colour says what the objective makes of it.
// Tokens are set as textContent only, so nothing in a sample can become markup.
import { article, getJson } from "./service.js";

const REFRESH_MS = 5000;
const NOTHING = "";

const panel = document.getElementById("token-view");
const choice = Object.fromEntries([...panel.querySelectorAll("select")].map((select) => [select.name, select]));
const panes = panel.querySelector(".panes");
const readout = panel.querySelector(".readout tbody");
let touched = false; // as long as nobody has looked closer, the newest step is shown
let shown = []; // the views on the page, each with its tokens and their spans
let shownFor = ""; // the choice that they answer
let request = 0; // answers to older choices are dropped

// Each way to colour: whether the views have what it needs, a token's class and shade in [0, 1], and what colours mean.
// The first that fits is shown first.
const COLOURINGS = {
  flexible: {
    label: "flexible tokens",
    fits: (views) => views.every((view) => view.tau !== null),
    paint: (token) => (token.flexible ? ["flexible", 0.25 + 0.75 * (1 - token.prob)] : ["rigid", 0]),
    legend: (views) => [
      ["flexible", 0.6, `flexible: top-${views[0].top_k} mass below tau ${number(views[0].tau)}; the stronger, the less likely the token`],
      ["rigid", 0, "rigid: plain cross entropy"],
    ],
  },
  entropy: {
    label: "entropy",
    fits: () => true,
    paint: (token, scale) => ["uncertain", token.entropy / scale.entropy],
    legend: (_, scale) => [
      ["uncertain", 0, "entropy 0"],
      ["uncertain", 1, `${number(scale.entropy)} nats`],
    ],
  },
  prob: {
    label: "1 − p",
    fits: () => true,
    paint: (token) => ["unlikely", 1 - token.prob],
    legend: () => [
      ["unlikely", 0, "p = 1"],
      ["unlikely", 1, "p = 0"],
    ],
  },
  weight: {
    label: "weight",
    fits: (views) => views.some((view) => view.tokens.some((token) => token.weight !== null && token.weight !== 1)),
    paint: (token, scale) => [token.weight > 1 ? "harder" : "softer", Math.abs(token.weight - 1) / scale.weight],
    legend: (_, scale) => [
      ["harder", 1, "learnt harder than with cross entropy (weight above 1)"],
      ["softer", 1, "held back (weight below 1)"],
      ["rigid", 0, `weight 1; full colour is ${number(scale.weight)} away from it`],
    ],
  },
};

function number(value) {
  return value === null ? "–" : Number.isFinite(value) ? String(Number(value.toPrecision(3))) : String(value);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Numbers that JSON has no sign for arrive as strings.
const value = (raw) => (raw === null ? null : Number(raw));

function tokensOf(view) {
  return view.tokens.map((text, place) => {
    const mass = value(view.topk_masses[place]);
    return {
      text,
      id: view.token_ids[place],
      prob: value(view.label_probs[place]),
      mass,
      entropy: value(view.entropies[place]),
      weight: value(view.weights[place]),
      trained: view.label_probs[place] !== null,
      flexible: view.tau !== null && mass !== null && mass < view.tau,
    };
  });
}

// White space and signs without a shape are made visible; what is copied from the page is the text itself.
function* visible(text) {
  for (const part of text.split(/([ \n]|[\p{Cc}\p{Cf}\p{Zl}\p{Zp}])/u)) {
    if (part === " ") yield element("span", part, "space");
    else if (part === "\n") yield element("span", part, "newline");
    else if (/^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]$/u.test(part)) yield element("span", `\\u{${part.codePointAt(0).toString(16)}}`, "control");
    else if (part) yield document.createTextNode(part);
  }
  if (!text) yield element("span", undefined, "nothing");
}

function fill(select, options, wanted) {
  select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = options.some(([key]) => String(key) === wanted) ? wanted : options[0][0];
}

function scaleOf(views) {
  const trained = views.flatMap((view) => view.tokens.filter((token) => token.trained));
  const most = (values) => Math.max(...values.filter(Number.isFinite), 1e-6);
  return { entropy: most(trained.map((token) => token.entropy)), weight: most(trained.map((token) => Math.abs((token.weight ?? 1) - 1))) };
}

function caption(view) {
  const trained = view.tokens.filter((token) => token.trained);
  if (!trained.length) return element("figcaption", `after step ${view.step}: the prompt fills the view`);
  const mean = (name) => number(trained.reduce((sum, token) => sum + token[name], 0) / trained.length);
  const flexible = view.tau === null ? "" : `${trained.filter((token) => token.flexible).length} of ${trained.length} tokens flexible · `;
  const made = element("figcaption", view.step === 0 ? "before training" : `after step ${view.step}`);
  made.append(" ", element("small", `${flexible}mean p ${mean("prob")} · mean entropy ${mean("entropy")}`));
  return made;
}

function paneOf(view) {
  const box = element("div", undefined, "tokens");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Tokens after step ${view.step}; the arrow keys go from token to token`);
  view.spans = view.tokens.map((token, place) => {
    const span = element("span", undefined, "token");
    span.dataset.place = place;
    span.tabIndex = -1;
    span.append(...visible(token.text));
    return span;
  });
  box.append(...view.spans);
  const pane = element("figure", undefined, "pane");
  pane.append(caption(view), box);
  return pane;
}

function paint() {
  const colouring = COLOURINGS[choice.colour.value];
  const scale = scaleOf(shown);
  for (const view of shown) {
    view.tokens.forEach((token, place) => {
      const [kind, shade] = token.trained ? colouring.paint(token, scale) : ["prompt", 0];
      view.spans[place].className = `token ${kind}`;
      view.spans[place].style.setProperty("--shade", `${Math.round(100 * Math.min(Math.max(shade || 0, 0), 1))}%`);
    });
  }
  const entries = [...colouring.legend(shown, scale), ["prompt", 0, "prompt: not trained"]];
  panel.querySelector(".legend").replaceChildren(
    ...entries.map(([kind, shade, text]) => {
      const swatch = element("span", text, `token ${kind}`);
      swatch.style.setProperty("--shade", `${100 * shade}%`);
      return swatch;
    }),
  );
}

// Shows the numbers of the token at this place, in every view, and marks it.
function point(place) {
  panes.querySelectorAll(".pointed").forEach((span) => span.classList.remove("pointed"));
  const rows = shown.filter((view) => place < view.tokens.length).map((view) => {
    const token = view.tokens[place];
    view.spans[place].classList.add("pointed");
    const kind = !token.trained ? "prompt" : view.tau === null ? "trained" : token.flexible ? "flexible" : "rigid";
    const cells = [token.prob, token.mass, token.entropy, token.weight].map((one) => element("td", number(one), "number"));
    const row = element("tr");
    row.append(element("td", `${JSON.stringify(token.text)} (${token.id})`), element("td", String(view.step), "number"), ...cells, element("td", kind));
    return row;
  });
  readout.replaceChildren(...rows);
}

function reach(view, place) {
  for (const span of view.spans) span.tabIndex = -1;
  view.spans[place].tabIndex = 0;
}

const wanted = () => [choice.sample, choice.before, choice.after].map((select) => select.value).join();

async function show() {
  if (wanted() === shownFor) return;
  const mine = ++request;
  const choosing = wanted();
  const steps = [choice.before.value, choice.after.value].filter((step) => step !== NOTHING);
  const views = await Promise.all(steps.map((step) => getJson(`/token-views/sft/${step}/${choice.sample.value}`)));
  if (mine !== request) return;
  shownFor = choosing;
  shown = views.map((view) => ({ ...view, tau: value(view.tau), tokens: tokensOf(view) }));
  const colourings = Object.entries(COLOURINGS).filter(([, colouring]) => colouring.fits(shown));
  fill(choice.colour, colourings.map(([key, { label }]) => [key, label]), choice.colour.value);
  panel.querySelector(".mass").textContent = `top-${shown[0].top_k} mass`;
  panes.replaceChildren(...shown.map(paneOf));
  shown.forEach((view) => reach(view, 0));
  paint();
  point(Math.max(shown[0].tokens.findIndex((token) => token.trained), 0));
}

async function refresh() {
  const { items } = await getJson("/token-views?stage=sft&sample_index=0&limit=1000");
  const steps = items.map((entry) => entry.step).sort((one, other) => one - other);
  if (!steps.length || String(steps) === panel.dataset.steps) return;
  panel.dataset.steps = String(steps);
  const newest = steps.at(-1);
  const samples = (await getJson(`/token-views?stage=sft&step=${newest}&limit=1000`)).items.map((entry) => entry.sample_index);
  const named = steps.map((step) => [step, step === 0 ? "0, before training" : step]);
  fill(choice.sample, samples.sort((one, other) => one - other).map((sample) => [sample, sample]), choice.sample.value);
  fill(choice.before, named, touched ? choice.before.value : String(steps[0]));
  fill(choice.after, [[NOTHING, "nothing"], ...named], touched ? choice.after.value : steps.length > 1 ? String(newest) : NOTHING);
  panel.querySelector(".waiting").hidden = true;
  panel.querySelector(".looking").hidden = false;
  await show();
}

function placeOf(event) {
  const span = event.target.closest(".token[data-place]");
  return span === null ? null : Number(span.dataset.place);
}

function move(event) {
  const view = shown.find((one) => one.spans.includes(event.target));
  const place = placeOf(event);
  if (!view || place === null) return;
  const last = view.spans.length - 1;
  const goal = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: last }[event.key];
  if (goal === undefined) return;
  event.preventDefault();
  reach(view, Math.min(Math.max(goal, 0), last));
  view.spans[Math.min(Math.max(goal, 0), last)].focus();
}

for (const kind of ["mouseover", "focusin"]) {
  panes.addEventListener(kind, (event) => {
    const place = placeOf(event);
    if (place === null) return;
    touched = true;
    point(place);
  });
}
panes.addEventListener("keydown", move);
choice.colour.addEventListener("change", paint);
choice.sample.addEventListener("change", () => show().catch(() => {}));
for (const select of [choice.before, choice.after]) {
  select.addEventListener("change", () => {
    touched = true;
    show().catch(() => {});
  });
}
refresh().catch(() => {});
if (article.dataset.terminal === "false") setInterval(() => refresh().catch(() => {}), REFRESH_MS);
