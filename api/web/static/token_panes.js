// How samples look token by token: each token a span whose colour says what the objective makes of it.
// Tokens are set as textContent only, so nothing in a sample can become markup.

// Each way to colour: whether the views have what it needs, a token's class and shade in [0, 1], and what colours mean.
// The first that fits is shown first.
export const COLOURINGS = {
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

// A view as the panes need it: its tokens as objects, with their spans once they are drawn.
export function readView(view) {
  const tokens = view.tokens.map((text, place) => {
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
  return { ...view, tau: value(view.tau), tokens, spans: [] };
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

function scaleOf(views) {
  const trained = views.flatMap((view) => view.tokens.filter((token) => token.trained));
  const most = (values) => values.filter(Number.isFinite).reduce((one, other) => Math.max(one, other), 1e-6);
  return { entropy: most(trained.map((token) => token.entropy)), weight: most(trained.map((token) => Math.abs((token.weight ?? 1) - 1))) };
}

function caption(views) {
  const { step, tau } = views[0];
  const made = element("figcaption", step === 0 ? "before training" : `after step ${step}`);
  const trained = views.flatMap((view) => view.tokens.filter((token) => token.trained));
  if (!trained.length) return made;
  const mean = (name) => number(trained.reduce((sum, token) => sum + token[name], 0) / trained.length);
  const flexible = tau === null ? "" : `${trained.filter((token) => token.flexible).length} of ${trained.length} tokens flexible · `;
  made.append(" ", element("small", `${flexible}mean p ${mean("prob")} · mean entropy ${mean("entropy")}`));
  return made;
}

function sampleOf(view) {
  const box = element("div", undefined, "tokens");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Sample ${view.sample_index} after step ${view.step}; the arrow keys go from token to token`);
  view.spans = view.tokens.map((token, place) => {
    const span = element("span", undefined, "token");
    Object.assign(span.dataset, { sample: view.sample_index, place });
    span.append(...visible(token.text));
    return span;
  });
  box.append(...view.spans);
  reach(view, 0);
  return box;
}

// One pane for each side, with the same samples one below the other.
export function drawPanes(container, sides) {
  const panes = sides.map((views) => {
    const pane = element("figure", undefined, "pane");
    pane.append(caption(views), ...views.map(sampleOf));
    return pane;
  });
  container.replaceChildren(...panes);
}

export function paint(views, colouring, legend) {
  const scale = scaleOf(views);
  for (const view of views) {
    view.tokens.forEach((token, place) => {
      const [kind, shade] = token.trained ? colouring.paint(token, scale) : ["prompt", 0];
      const span = view.spans[place];
      span.className = `token ${kind}`;
      span.style.setProperty("--shade", `${Math.round(100 * Math.min(Math.max(shade || 0, 0), 1))}%`);
    });
  }
  const entries = [...colouring.legend(views, scale), ["prompt", 0, "prompt: not trained"]];
  const swatches = entries.map(([kind, shade, text]) => {
    const swatch = element("span", text, `token ${kind}`);
    swatch.style.setProperty("--shade", `${100 * shade}%`);
    return swatch;
  });
  legend.replaceChildren(...swatches);
}

// Marks one token on every side and writes its numbers into the table body `readout`.
export function point(views, { sample, place }, readout) {
  for (const span of views.flatMap((view) => view.spans)) span.classList.remove("pointed");
  const there = views.filter((view) => view.sample_index === sample && place < view.tokens.length);
  const rows = there.map((view) => {
    const token = view.tokens[place];
    view.spans[place].classList.add("pointed");
    const kind = !token.trained ? "prompt" : view.tau === null ? "trained" : token.flexible ? "flexible" : "rigid";
    const numbers = [token.prob, token.mass, token.entropy, token.weight].map((one) => element("td", number(one), "number"));
    const row = element("tr");
    row.append(element("td", `${JSON.stringify(token.text)} (${token.id})`), element("td", String(view.step), "number"), ...numbers, element("td", kind));
    return row;
  });
  readout.replaceChildren(...rows);
}

// Makes one token of a view the one that the Tab key leads to.
export function reach(view, place) {
  for (const span of view.spans) span.tabIndex = -1;
  view.spans[place].tabIndex = 0;
}
