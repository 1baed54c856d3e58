// Keeps what a page shows up to date by asking for the page again, and lets its buttons order something of the API.
//   <section id="waiting" data-live>…</section>        is brought up to date, in place
//   <p id="message" role="status"></p>                 says what an order came to
import { morph } from "./morph.js";

const INTERVAL_MS = 3000;
const SLOWEST_MS = 60000;
let asked = 0;

// Asks once; of two answers the older is thrown away.
export async function refresh() {
  const mine = ++asked;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.redirected && new URL(answer.url).pathname === "/login") return location.reload();
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (mine !== asked) return;
  for (const now of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(now.id);
    if (next) morph(now, document.adoptNode(next));
  }
  document.dispatchEvent(new CustomEvent("fresh"));
}

// Goes on as long as the page is open: nothing is asked while nobody looks, and ever less often of a service that fails.
export function keepFresh(interval = INTERVAL_MS) {
  let pause = interval;
  let timer = 0;
  async function turn() {
    clearTimeout(timer);
    try {
      if (!document.hidden) await refresh();
      pause = interval;
      document.body.classList.remove("stale");
    } catch {
      pause = Math.min(pause * 2, SLOWEST_MS);
      document.body.classList.add("stale");
    }
    timer = setTimeout(turn, pause);
  }
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  timer = setTimeout(turn, pause);
}

// Posts an order; returns its answer. Raises an Error in the words of the service's problem document.
export async function order(path, body, method = "POST") {
  const answer = await fetch(`/api/v1${path}`, {
    method,
    ...(body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }),
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail || `HTTP ${answer.status}`);
  return told;
}

export function say(text, isBad = false) {
  const message = document.getElementById("message");
  message.textContent = text;
  message.classList.toggle("problem", isBad);
}
