// Keeps the list fresh while it is looked at, without losing filters or the scroll position.
const INTERVAL_MS = 3000;

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["capacity", "experiments", "studies"]) {
    const now = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (now && next && now.innerHTML !== next.innerHTML) now.replaceWith(document.adoptNode(next));
  }
}

setInterval(() => refresh().catch(() => {}), INTERVAL_MS);
