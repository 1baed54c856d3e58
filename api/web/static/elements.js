// Elements of a page. Text is set as textContent only, so nothing in a name, prompt or completion can become markup.

// `element("td", "text", "class")`, or with children in a list instead of the text.
export function element(name, content, className) {
  const made = document.createElement(name);
  if (Array.isArray(content)) made.append(...content);
  else if (content !== undefined && content !== null) made.textContent = content;
  if (className) made.className = className;
  return made;
}

// A moment in the reader's own zone.
export function timeOf(iso, { short = false } = {}) {
  const made = element("time", momentText(iso, short));
  made.dateTime = iso;
  made.title = new Date(iso).toLocaleString();
  made.dataset.form = short ? "clock" : "exact";
  return made;
}

const momentText = (iso, short) => (short ? new Date(iso).toLocaleTimeString() : new Date(iso).toLocaleString());

// Seconds as people say them.
export function durationText(seconds) {
  const rounded = Math.round(seconds);
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (rounded < 120) return `${rounded} s`;
  if (rounded < 7200) return `${Math.floor(rounded / 60)} min ${rounded % 60 ? `${rounded % 60} s` : ""}`.trim();
  const hours = Math.floor(rounded / 3600);
  if (hours < 48) return `${hours} h ${Math.floor((rounded % 3600) / 60)} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function numberText(value) {
  if (value === null || value === undefined) return "–";
  const number = Number(value);
  return Number.isFinite(number) ? String(Number(number.toPrecision(4))) : String(value);
}
