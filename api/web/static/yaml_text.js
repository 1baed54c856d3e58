// Values as YAML, and changes of single values in a text that keep its comments. Where a change would be more than one
// line's business, the answer is null, and the whole text is written anew.

const PLAIN = /^[A-Za-z_/][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+()-]+)*$/;
const KEY = /^\s*[\w"'.+-]+\s*:/;
const WORD = /^[A-Za-z_/][A-Za-z0-9_./-]*$/;
const SPECIAL = /^(true|false|yes|no|on|off|null|y|n|~)$/i;

function scalar(value) {
  if (value === null || value === undefined) return "null";
  if (typeof value === "number") {
    // YAML 1.1 reads 1e-5 as text: a number with an exponent needs its point.
    const text = String(value);
    return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
  }
  if (typeof value === "boolean") return String(value);
  return PLAIN.test(value) && !SPECIAL.test(value) ? value : JSON.stringify(value);
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function inline(value) {
  if (Array.isArray(value)) return `[${value.map(inline).join(", ")}]`;
  if (isObject(value)) return `{${Object.entries(value).map(([key, one]) => `${scalar(key)}: ${inline(one)}`).join(", ")}}`;
  return typeof value === "string" && !(WORD.test(value) && !SPECIAL.test(value)) ? JSON.stringify(value) : scalar(value);
}

function lines(key, value, indent) {
  const head = `${" ".repeat(indent)}${scalar(key)}:`;
  if (isObject(value) && Object.keys(value).length) {
    return [head, ...Object.entries(value).flatMap(([name, one]) => lines(name, one, indent + 2))];
  }
  if (Array.isArray(value) && value.some(isObject)) return [head, ...value.map((one) => `${" ".repeat(indent)}- ${inline(one)}`)];
  return [`${head} ${isObject(value) || Array.isArray(value) ? inline(value) : scalar(value)}`];
}

export function toYaml(body) {
  return Object.entries(body).flatMap(([key, value]) => lines(key, value, 0)).join("\n") + "\n";
}

function parentOf(path) {
  const cut = path.lastIndexOf(".");
  return cut < 0 ? ["", path] : [path.slice(0, cut), path.slice(cut + 1)];
}

export function valueAt(body, path) {
  return path.split(".").reduce((node, part) => node?.[part], body);
}

// What stands in brackets or braces around the path, the widest of it.
function flowAround(places, path) {
  const parts = path.split(".");
  const prefixes = parts.map((_, place) => parts.slice(0, place + 1).join("."));
  return prefixes.find((one) => places[one]?.kind === "flow");
}

function replaced(all, place, text) {
  const gap = place.line === place.end_line && place.column === place.end_column ? " " : "";
  const whole = all[place.line].slice(0, place.column) + gap + text + all[place.end_line].slice(place.end_column);
  all.splice(place.line, place.end_line - place.line + 1, whole);
  return all;
}

function removed(all, places, path, place) {
  const [parent] = parentOf(path);
  const siblings = Object.keys(places).filter((one) => parentOf(one)[0] === parent);
  if (siblings.length < 2 || !KEY.test(all[place.key_line])) return null;
  all.splice(place.key_line, place.end_line - place.key_line + 1);
  return all;
}

function rewritten(all, place, key, value) {
  if (!KEY.test(all[place.key_line])) return null;
  const indent = all[place.key_line].match(/^ */)[0].length;
  all.splice(place.key_line, place.end_line - place.key_line + 1, ...lines(key, value, indent));
  return all;
}

function inserted(all, places, path, value) {
  const [parent, key] = parentOf(path);
  const around = places[parent];
  if (parent && around?.kind !== "block") return null;
  const inside = Object.keys(places).filter((one) => parentOf(one)[0] === parent);
  const last = Math.max(-1, ...inside.map((one) => places[one].end_line));
  all.splice(last + 1, 0, ...lines(key, value, parent ? around.column : 0));
  return all;
}

// With as much around it as is not there yet.
function insertedWhole(all, places, path, body) {
  let top = path;
  while (parentOf(top)[0] && !places[parentOf(top)[0]]) [top] = parentOf(top);
  return inserted(all, places, top, valueAt(body, top));
}

function changed(all, places, path, body) {
  const [, key] = parentOf(path);
  const [place, value, flow] = [places[path], valueAt(body, path), flowAround(places, path)];
  if (flow) return replaced(all, places[flow], inline(valueAt(body, flow)));
  if (value === undefined) return place ? removed(all, places, path, place) : all;
  if (!place) return insertedWhole(all, places, path, body);
  const isSimple = place.kind === "scalar" && place.line === place.end_line && !isObject(value) && !Array.isArray(value);
  return isSimple ? replaced(all, place, scalar(value)) : rewritten(all, place, key, value);
}

// The text as the body has the value at the path, all else as it was; null if that cannot be done line by line.
export function edited(text, places, path, body) {
  return changed(text.split("\n"), places, path, body)?.join("\n") ?? null;
}
