// Keeps a study's state fresh while it goes on, and sends the orders of its buttons.
const INTERVAL_MS = 3000;
const LIVE = ["study-title", "message", "study-runs", "study-widths"];
const article = document.getElementById("study");
const api = `/api/v1/studies/${encodeURIComponent(article.dataset.id)}`;

async function refresh() {
  if (document.hidden || article.dataset.over === "true") return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of LIVE) {
    const now = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (now && next && now.innerHTML !== next.innerHTML) now.replaceWith(document.adoptNode(next));
  }
  article.dataset.over = fresh.getElementById("study").dataset.over;
}

async function act(button) {
  const action = button.dataset.action;
  if (action === "cancel" && !confirm("Cancel everything of this study that has not ended? There is no way back.")) return;
  button.disabled = true;
  const body = action === "resume" ? {} : { headers: { "Content-Type": "application/json" }, body: "{}" };
  const answer = await fetch(`${api}/${action}`, { method: "POST", ...body });
  if (answer.ok) {
    article.dataset.over = "false";
    await refresh();
  } else {
    const problem = await answer.json();
    document.getElementById("message").textContent = problem.detail || `HTTP ${answer.status}`;
    button.disabled = false;
  }
}

// The buttons are replaced with the title, so clicks are heard where nothing is.
article.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button).catch((error) => (document.getElementById("message").textContent = String(error)));
});
setInterval(() => refresh().catch(() => {}), INTERVAL_MS);
