// Every <time datetime> of the page in the reader's zone, also those that arrive later.
//   data-form="date"   day and minute (also without the attribute)      data-form="exact"   with seconds
//   data-form="clock"  hour, minute, second                             data-form="ago"     as long ago or ahead
//   data-form="elapsed"  the time from then until now
const EACH_MS = 15000;
const FORMATS = {
  date: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }),
  exact: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" }),
  clock: new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }),
};
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const UNITS = [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60]];
const LONG_S = 30 * 86400;

// "45 s", "12 min", "2 h 18 min", "3 d 4 h": the page's own words are English, whatever the reader's language.
export function durationText(seconds) {
  const found = UNITS.find(([, size]) => seconds >= size);
  if (!found) return `${Math.round(seconds)} s`;
  const [unit, size, smaller, itsSize] = found;
  const rest = smaller ? Math.floor((seconds % size) / itsSize) : 0;
  return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${smaller}` : "");
}

// "3 min ago", "in 2 h 5 min": how far a moment is from now.
export function sinceNow(moment, now = Date.now()) {
  const seconds = (moment.getTime() - now) / 1000;
  if (Math.abs(seconds) < 10) return "now";
  if (seconds < -LONG_S) return FORMATS.date.format(moment);
  return seconds < 0 ? `${durationText(-seconds)} ago` : `in ${durationText(seconds)}`;
}

// A moment's text in one of the forms above; "" for what is no moment.
export function momentText(text, form = "date") {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return "";
  if (form === "elapsed") return durationText(Math.max(Date.now() - moment.getTime(), 0) / 1000);
  return form === "ago" ? sinceNow(moment) : (FORMATS[form] || FORMATS.date).format(moment);
}

// A new element for a moment, ready to be put into the page.
export function timeElement(iso, form = "date") {
  const element = document.createElement("time");
  element.dateTime = iso;
  element.dataset.form = form;
  show(element);
  return element;
}

// Brings all times below `root` up to date.
export function showTimes(root = document) {
  if (root instanceof HTMLTimeElement) show(root);
  else root.querySelectorAll("time[datetime]").forEach(show);
}

function show(element) {
  const text = momentText(element.dateTime, element.dataset.form);
  if (!text || element.textContent === text) return;
  element.textContent = text;
  element.title = FULL.format(new Date(element.dateTime));
}

showTimes();
// Watching starts before others write, so what they put in is never seen in UTC.
new MutationObserver((changes) => {
  for (const change of changes) {
    if (change.type === "attributes") show(change.target);
    else change.addedNodes.forEach((node) => node instanceof Element && showTimes(node));
  }
}).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["datetime"] });
setInterval(() => document.querySelectorAll('time[data-form="ago"], time[data-form="elapsed"]').forEach(show), EACH_MS);
