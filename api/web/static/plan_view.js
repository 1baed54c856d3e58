// What a dry run says, beside the text. Everything is set as text.

const bytes = (count) => {
  for (const [power, unit] of [[4, "TiB"], [3, "GiB"], [2, "MiB"], [1, "KiB"]]) if (count >= 1024 ** power) return `${(count / 1024 ** power).toFixed(1)} ${unit}`;
  return `${count} B`;
};
const words = (name) => name.replaceAll("_", " ");
const shown = (value) => (typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : String(value));

function facts(rows) {
  const list = document.createElement("dl");
  for (const [name, value] of rows) {
    const term = document.createElement("dt");
    const told = document.createElement("dd");
    term.textContent = name;
    told.textContent = value;
    list.append(term, told);
  }
  return list;
}

function titled(title, ...parts) {
  const head = document.createElement("h2");
  head.textContent = title;
  return [head, ...parts];
}

function warnings(texts) {
  return texts.map((text) => Object.assign(document.createElement("p"), { className: "warning", textContent: text }));
}

function ofExperiment({ plan, start }) {
  const stages = plan.stages.map((one) => [words(one.stage), [`${one.num_steps || "?"} steps`, ...Object.entries(one.numbers).map(([name, value]) => `${words(name)} ${shown(value)}`)].join(", ")]);
  const memory = plan.memory.map((one) => [`${one.role}, ${one.stage}`, `${bytes(one.total_bytes)} of ${one.available_bytes === null ? "unknown" : bytes(one.available_bytes)} (${one.device})`]);
  return [
    ...titled("It would start", facts([["when", start.words], ["holds", `${plan.num_cpus} CPUs, ${plan.num_gpus} GPUs`]])),
    ...titled("Stages", facts(stages)),
    ...(memory.length ? titled("Memory at its peak", facts(memory)) : []),
    ...warnings(plan.warnings),
  ];
}

function ofStudy({ plan }) {
  const stages = plan.stages.map((one) => [words(one.stage), `${one.num_distinct} to be run, for ${one.num_runs} experiments`]);
  const hours = (value) => (value === null ? "unknown" : shown(value));
  return [
    ...titled("It would make", facts([
      ["experiments", `${plan.num_experiments} of ${plan.num_planned} planned`],
      ["arms", plan.arms.join(", ")],
      ["likely cost", `${hours(plan.gpu_hours)} GPU-hours, ${hours(plan.cpu_hours)} CPU-hours`],
      ["at most", `${hours(plan.max_gpu_hours)} GPU-hours, ${hours(plan.max_cpu_hours)} CPU-hours`],
      ["estimated from", plan.basis],
    ])),
    ...titled("Stages", facts(stages)),
    ...plan.unknown.map((text) => Object.assign(document.createElement("p"), { textContent: text })),
    ...warnings(plan.warnings),
  ];
}

export function showPlan(holder, checked, kind) {
  holder.hidden = !checked.plan;
  holder.replaceChildren(...(checked.plan ? (kind === "study" ? ofStudy(checked) : ofExperiment(checked)) : []));
}
