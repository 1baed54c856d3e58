// The course of the experiment: one lane an attempt, with the stages it ran and what happened on the way.
import { durationText, element, timeOf } from "./elements.js";
import { getJson } from "./service.js";

const LABELS = {
  sft: "SFT",
  rl: "RL",
  evaluate_base: "evaluation of the base model",
  evaluate_after_sft: "evaluation after SFT",
  evaluate_after_rl: "evaluation after RL",
};
const SHORT = { sft: "SFT", rl: "RL", evaluate_base: "eval", evaluate_after_sft: "eval", evaluate_after_rl: "eval" };
const SIGNS = { problem: "▲", notice: "●", milestone: "◆" };
const place = document.getElementById("timeline");
let drawn = "";

const ms = (iso) => Date.parse(iso);

// Shares of the lane's width: time runs from the first attempt's beginning to the end, or to now.
function scaleOf(course) {
  const start = ms(course.attempts[0].start);
  const ends = course.attempts.map((attempt) => ms(attempt.end ?? course.now));
  const last = course.attempts.at(-1).end ? Math.max(...ends) : ms(course.now);
  const width = Math.max(last - start, 1);
  return { start, width, at: (iso) => (100 * (Math.min(Math.max(ms(iso), start), start + width) - start)) / width };
}

function put(made, scale, start, end) {
  const left = scale.at(start);
  made.style.left = `${left}%`;
  made.style.width = `${Math.max(scale.at(end) - left, 0)}%`;
  return made;
}

function spanOf(span, scale, now) {
  const end = span.end ?? now;
  const took = durationText((ms(end) - ms(span.start)) / 1000);
  const name = span.stage ? LABELS[span.stage] : "starting";
  const steps = span.steps_planned ? `, ${span.steps_done} of ${span.steps_planned} steps` : "";
  const made = put(element("li", undefined, `span ${span.stage ?? "starting"} ${span.state}`), scale, span.start, end);
  made.title = `${name}: ${took}${steps}, ${span.state}`;
  made.append(element("span", span.stage ? SHORT[span.stage] : "", "seen"), element("span", made.title, "spoken"));
  return made;
}

function markOf(incident, scale) {
  const link = element("a", SIGNS[incident.weight], `mark ${incident.weight}`);
  link.href = `#incident-${incident.event_id}`;
  link.title = incident.message;
  link.setAttribute("aria-label", `${incident.kind.replaceAll("_", " ")}: ${incident.message}`);
  link.style.left = `${scale.at(incident.ts)}%`;
  return element("li", [link]);
}

function laneOf(attempt, course, scale) {
  const incidents = course.incidents.filter((one) => one.attempt_number === attempt.number && one.kind !== "note");
  const spans = attempt.spans.map((span) => spanOf(span, scale, course.now));
  const lane = element("ol", [...spans, ...incidents.slice(0, 60).map((one) => markOf(one, scale))], "lane");
  lane.setAttribute("aria-label", `Attempt ${attempt.number}`);
  const end = attempt.end ? `ended: ${attempt.end_reason}` : attempt.status;
  const name = element("div", [element("b", `Attempt ${attempt.number}`), element("small", ` ${end}`)], "lane-name");
  return element("div", [name, lane], "attempt");
}

function ruler(scale) {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const made = element("span", durationText((share * scale.width) / 1000));
    made.style.left = `${100 * share}%`;
    return made;
  });
  const made = element("div", [element("div", "", "lane-name"), element("div", marks, "ruler")], "attempt");
  made.setAttribute("aria-hidden", "true");
  return made;
}

function waitsOf(course) {
  const seconds = course.waits.map((wait) => (ms(wait.end ?? course.now) - ms(wait.start)) / 1000);
  if (!seconds.length) return "";
  const again = seconds.length > 1 ? `, then ${seconds.slice(1).map(durationText).join(", ")} between attempts` : "";
  const open = course.waits.at(-1).end ? "" : " so far";
  return `Waited ${durationText(seconds[0])} in the queue${again}${open}. `;
}

function summary(course) {
  const made = element("p", waitsOf(course), "facts");
  const [first, last] = [course.attempts[0], course.attempts.at(-1)];
  if (first) made.append("From ", timeOf(first.start), " to ", last.end ? timeOf(last.end) : "now", ".");
  return made;
}

function incidentRow(incident) {
  const sign = element("span", SIGNS[incident.weight], `sign ${incident.weight}`);
  sign.setAttribute("aria-hidden", "true");
  const attempt = incident.attempt_number ? `attempt ${incident.attempt_number}` : "";
  const row = element("li", [sign, timeOf(incident.ts, { short: true }), element("small", attempt), element("span", incident.message)]);
  row.id = `incident-${incident.event_id}`;
  row.tabIndex = -1;
  return row;
}

function incidentList(course) {
  if (!course.incidents.length) return [];
  const problems = course.incidents.filter((one) => one.weight === "problem").length;
  const title = element("h3", problems ? `Incidents (${problems})` : "On the way");
  const list = element("ul", course.incidents.slice(-200).map(incidentRow), "incidents");
  list.tabIndex = 0; // it may scroll
  list.setAttribute("aria-label", "Incidents");
  return [title, list];
}

export async function refreshTimeline() {
  const course = await getJson("/timeline");
  const text = JSON.stringify({ ...course, now: course.end ? "" : course.now });
  if (text === drawn) return;
  drawn = text;
  const parts = [summary(course)];
  if (course.attempts.length) {
    const scale = scaleOf(course);
    parts.push(element("div", [...course.attempts.map((attempt) => laneOf(attempt, course, scale)), ruler(scale)], "lanes"));
  }
  const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  place.replaceChildren(...parts, ...incidentList(course));
  if (focused) place.querySelector(`a[href="${focused}"]`)?.focus();
}
