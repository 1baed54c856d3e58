// Orders on single experiments: any element with data-order and data-id, now or later on the page.
import { order, refresh, say } from "./fresh.js";

const DONE = { cancel: "asked to cancel", hold: "held", release: "released", retry: "queued again", priority: "moved" };

async function give(element) {
  const { order: verb, id, name, status } = element.dataset;
  if (verb === "cancel" && status !== "queued" && !confirm(`Stop ${name}? It can be retried from its last checkpoint.`)) return;
  const body = { hold: { reason: "" }, priority: { priority: element.value } }[verb];
  element.disabled = true;
  try {
    const { name } = await order(`/experiments/${encodeURIComponent(id)}/${verb}`, body);
    say(`${name}: ${DONE[verb]}`);
    await refresh();
  } catch (error) {
    say(error.message, true);
    // What the reader chose was not taken: the page shows again what is.
    if (element instanceof HTMLSelectElement) [...element.options].forEach((option) => (option.selected = option.defaultSelected));
  } finally {
    element.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-order]");
  if (button) give(button);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-order]")) give(event.target);
});
