// The queue's page: kept fresh, and orders for the queue as a whole.
import "./orders.js";
import { keepFresh, order, refresh, say } from "./fresh.js";

const queueOf = (project) => (project ? `/projects/${encodeURIComponent(project)}` : "/queue");

async function tell(path, body, done) {
  try {
    await order(path, body);
    say(done);
    await refresh();
  } catch (error) {
    say(error.message, true);
  }
}

const form = document.getElementById("pause");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { scope, reason, drain } = form.elements;
  const body = { reason: reason.value, drain: drain.checked };
  await tell(`${queueOf(scope.value)}/pause`, body, body.drain ? "draining" : "paused");
  form.reset();
  document.getElementById("pausing").open = false;
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-resume]");
  if (button) tell(`${queueOf(button.dataset.resume)}/resume`, undefined, "resumed");
});
keepFresh();
