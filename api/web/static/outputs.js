// Checkpoints and exported models, looked up when the reader comes there: their storage may be slow or elsewhere.
import { element, timeOf } from "./elements.js";
import { api, getJson } from "./service.js";

const section = document.getElementById("outputs");
const table = section.querySelector("table.outputs");
const told = section.querySelector(".told");
let isSeen = false;

function sizeText(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  return power ? `${(bytes / 1024 ** power).toFixed(1)} ${units[power]}` : `${bytes} B`;
}

function download(text, path, label) {
  const link = element("a", text);
  link.href = `${api}/checkpoints/${path}`;
  link.download = "";
  if (label) link.setAttribute("aria-label", label);
  return link;
}

function fileList(output) {
  const files = output.files.map(({ path, num_bytes: size }) => {
    const link = download(path, `${encodeURIComponent(output.id)}/file?${new URLSearchParams({ path })}`);
    return element("li", [link, " ", element("small", sizeText(size))]);
  });
  return element("details", [element("summary", String(files.length)), element("ul", files, "files")]);
}

function rowOf(output) {
  const broken = output.is_whole ? [] : [" ", element("small", "not whole", "problem")];
  const archive = download("tar", `${encodeURIComponent(output.id)}/archive`, `Download ${output.id} as tar`);
  return element("tr", [
    element("td", [output.kind, ...broken]),
    element("td", output.stage.toUpperCase()),
    element("td", output.step ?? "–", "number"),
    element("td", output.modified_at ? [timeOf(output.modified_at)] : ""),
    element("td", sizeText(output.num_bytes), "number"),
    element("td", [fileList(output)]),
    element("td", [archive]),
  ]);
}

async function show() {
  const { location, items } = await getJson("/checkpoints");
  const where = element("code", location);
  const what = " A model is a Hugging Face folder; a checkpoint is what an attempt goes on from.";
  told.replaceChildren(...(items.length ? ["In ", where, ".", what] : ["None in ", where, "."]));
  told.classList.remove("problem");
  table.hidden = !items.length;
  table.tBodies[0].replaceChildren(...items.map(rowOf));
}

// Looks again, if the reader has been there.
export function refreshOutputs() {
  if (!isSeen) return;
  show().catch((error) => {
    table.hidden = true;
    told.textContent = error.message;
    told.classList.add("problem");
  });
}

new IntersectionObserver(
  ([{ isIntersecting }], observer) => {
    if (!isIntersecting) return;
    observer.disconnect();
    isSeen = true;
    refreshOutputs();
  },
  { rootMargin: "300px" },
).observe(section);
