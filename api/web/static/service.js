// The experiment of this page, and how its scripts ask the service for it.

export const article = document.getElementById("experiment");
export const api = `/api/v1/experiments/${encodeURIComponent(article.dataset.id)}`;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail || `HTTP ${status}`);
    this.status = status;
  }
}

export async function getJson(path) {
  const answer = await fetch(api + path);
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => ({}))).detail);
  return answer.json();
}
