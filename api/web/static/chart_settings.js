// How the reader wants to see charts, kept in this browser: what stands below them, smoothing, logarithmic axes.

const KEY = "sedray.charts";
const DEFAULTS = { unit: "step", smoothing: 0, logX: false, logY: false };
const listeners = new Set();

function stored() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) || "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = stored();

export const onChange = (listener) => listeners.add(listener);

function change(name, value) {
  settings[name] = value;
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A browser that stores nothing forgets the choice with the page.
  }
  for (const listener of listeners) listener(name);
}

// Connects the toolbar `form`, whose fields carry the names of the settings.
export function connect(form) {
  const { unit, smoothing, logX, logY } = form.elements;
  if (![...unit.options].some((option) => option.value === settings.unit)) settings.unit = DEFAULTS.unit;
  unit.value = settings.unit;
  smoothing.value = settings.smoothing;
  logX.checked = settings.logX;
  logY.checked = settings.logY;
  const shown = form.querySelector("output");
  const tell = () => (shown.textContent = settings.smoothing ? Number(settings.smoothing).toFixed(2) : "off");
  tell();
  unit.addEventListener("change", () => change("unit", unit.value));
  smoothing.addEventListener("input", () => {
    change("smoothing", Number(smoothing.value));
    tell();
  });
  logX.addEventListener("change", () => change("logX", logX.checked));
  logY.addEventListener("change", () => change("logY", logY.checked));
  form.addEventListener("submit", (event) => event.preventDefault());
}
