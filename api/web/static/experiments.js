// The list of experiments: kept fresh, and orders for all that are selected. The selection stays over pages and filters.
import { keepFresh, order, refresh, say } from "./fresh.js";

const KEY = "sedray-selected";
const MOST = 200;
const bar = document.getElementById("bulk");
// Of each selected experiment, whether the reader may give it orders.
const selected = new Map(stored());

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) || [];
  } catch {
    return [];
  }
}

function show() {
  sessionStorage.setItem(KEY, JSON.stringify([...selected]));
  for (const box of document.querySelectorAll("[data-select]")) box.checked = selected.has(box.dataset.select);
  bar.hidden = selected.size === 0;
  document.getElementById("number").textContent = String(selected.size);
  document.getElementById("compare").href = `/compare?ids=${[...selected.keys()].map(encodeURIComponent).join(",")}`;
  const mayOrder = [...selected.values()].some(Boolean);
  bar.querySelectorAll("[data-bulk], label").forEach((one) => (one.hidden = !mayOrder));
}

function clear() {
  selected.clear();
  show();
}

async function tell(action, more = {}) {
  const ids = [...selected.keys()];
  if (action === "cancel" && !confirm(`Cancel ${ids.length} experiment${ids.length === 1 ? "" : "s"}?`)) return;
  try {
    const { items, num_done } = await order("/experiments/bulk", { action, ids, ...more });
    const refused = items.filter((item) => !item.done);
    const first = refused.length ? ` Refused: ${refused.length}. ${refused[0].detail}` : "";
    say(`${action}: ${num_done} of ${items.length} done.${first}`, refused.length > 0);
    items.filter((item) => item.done).forEach((item) => selected.delete(item.id));
    show();
    await refresh();
  } catch (error) {
    say(error.message, true);
  }
}

document.addEventListener("change", ({ target }) => {
  if (target.matches("[data-select]")) {
    const { select, mine } = target.dataset;
    if (!target.checked) selected.delete(select);
    else if (selected.size < MOST) selected.set(select, mine !== undefined);
    else say(`no more than ${MOST} at once`, true);
    show();
  }
  if (target.id === "class" && target.value) {
    tell("priority", { priority: target.value });
    target.value = "";
  }
});
bar.addEventListener("click", (event) => {
  const button = event.target.closest("[data-bulk]");
  if (button) tell(button.dataset.bulk);
});
document.getElementById("clear").addEventListener("click", clear);
document.addEventListener("fresh", show);
show();
keepFresh();
