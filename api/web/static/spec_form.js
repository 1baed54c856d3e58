// A form made from the schema. It knows nothing of YAML: it shows a body, and tells of each change by dotted path.

const FIRST = ["name", "project", "description", "tags", "seed", "priority"];
const ALWAYS = new Set(["sft.objective", "rl.preset", "evaluation.pass_at_k"]);
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const TITLES = { sft: "SFT", rl: "RL" };
const titled = (name) => TITLES[name] ?? name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class SpecForm {
  constructor(holder, schema, onChange) {
    Object.assign(this, { holder, schema, onChange, opened: new Set() });
    holder.addEventListener("submit", (event) => event.preventDefault());
  }

  show(body) {
    this.body = body;
    const focused = document.activeElement?.dataset?.path;
    const { properties, required = [] } = this.schema.root;
    const general = element("fieldset");
    general.append(element("legend", "", "General"));
    const simple = Object.entries(properties).filter(([, node]) => !["object", "union"].includes(this.schema.look(node).kind));
    this.fields(general, Object.fromEntries(simple), required, body, "", FIRST);
    const parts = Object.entries(properties).filter(([, node]) => this.schema.look(node).kind === "object");
    this.holder.replaceChildren(general, ...parts.map(([name, node]) => this.section(name, node, required.includes(name), body[name])));
    if (focused) this.holder.querySelector(`[data-path="${CSS.escape(focused)}"]`)?.focus();
  }

  // A stage or another part of the specification, to be switched on where it may be left out.
  section(name, node, isRequired, value) {
    const part = element("fieldset");
    const legend = element("legend");
    part.append(legend);
    const seen = this.schema.look(node);
    if (seen.optional) {
      const label = element("label");
      const box = element("input");
      Object.assign(box, { type: "checkbox", checked: isObject(value) });
      box.dataset.path = name;
      box.addEventListener("change", () => this.onChange(name, box.checked ? this.schema.skeleton(node) : undefined, true));
      label.append(box, ` ${titled(name)}`);
      legend.append(label);
    } else legend.textContent = titled(name);
    part.append(element("p", "about", seen.node.description || seen.about));
    if (isObject(value) || !seen.optional) this.fields(part, seen.node.properties, seen.node.required || [], isObject(value) ? value : {}, name);
    return part;
  }

  // What must be given or is given comes first; the rest waits behind one click.
  fields(holder, properties, required, value, path, first = []) {
    const names = Object.keys(properties).filter((name) => name !== "type" || !properties[name].const);
    const shown = names.filter((name) => required.includes(name) || name in value || first.includes(name) || ALWAYS.has(`${path}.${name}`) || (name === "path" && !("set" in value)));
    shown.forEach((name) => holder.append(this.field(name, properties[name], required.includes(name), value[name], path)));
    const rest = names.filter((name) => !shown.includes(name));
    if (!rest.length) return;
    const more = element("details");
    const key = path || "(general)";
    more.open = this.opened.has(key);
    more.append(element("summary", "", `${rest.length} more with their defaults`));
    const fill = () => more.children.length > 1 || rest.forEach((name) => more.append(this.field(name, properties[name], false, undefined, path)));
    more.addEventListener("toggle", () => {
      if (more.open) this.opened.add(key);
      else this.opened.delete(key);
      fill();
    });
    if (more.open) fill();
    holder.append(more);
  }

  field(name, node, isRequired, value, parent) {
    const path = parent ? `${parent}.${name}` : name;
    const seen = this.schema.look(node);
    if (seen.kind === "object" || seen.kind === "union") return this.nested(name, node, seen, isRequired, value, path);
    const row = element("div", "field");
    const label = element("label", isRequired ? "key required" : "key", name);
    const input = this.input(seen, isRequired, value, path);
    input.id = `field-${path}`;
    input.dataset.path = path;
    label.htmlFor = input.id;
    row.append(label, input);
    if (seen.about) {
      const help = element("p", "help", seen.about);
      help.id = `help-${path}`;
      input.setAttribute("aria-describedby", help.id);
      row.append(help);
    }
    return row;
  }

  nested(name, node, seen, isRequired, value, path) {
    const part = element("fieldset");
    part.append(element("legend", "key", name));
    if (seen.about) part.append(element("p", "about", seen.about));
    if (!isObject(value) && !isRequired) {
      const button = element("button", "", `set ${name}`);
      button.type = "button";
      button.dataset.path = path;
      const instead = isObject(seen.node.default) ? seen.node.default : this.schema.skeleton(node);
      button.addEventListener("click", () => this.onChange(path, instead, true));
      part.append(button, element("small", "", isObject(seen.node.default) ? ` default: ${seen.node.default.type ?? "as described"}` : ""));
      return part;
    }
    const given = isObject(value) ? value : {};
    if (seen.kind === "object") {
      this.fields(part, seen.node.properties, seen.node.required || [], given, path);
      return part;
    }
    const member = seen.members[given.type];
    part.append(this.choiceOfType(seen, given, path));
    if (member) {
      if (member.description) part.append(element("p", "about", member.description.split("\n\n")[0]));
      this.fields(part, member.properties, member.required || [], given, path);
    }
    return part;
  }

  // Another kind keeps the settings that it has too.
  choiceOfType(seen, given, path) {
    const row = element("div", "field");
    const label = element("label", "key required", "type");
    const select = this.select(Object.keys(seen.members), given.type, given.type ? null : "choose");
    select.id = `field-${path}.type`;
    select.dataset.path = `${path}.type`;
    label.htmlFor = select.id;
    select.addEventListener("change", () => {
      const next = seen.members[select.value];
      const now = path.split(".").reduce((part, key) => part?.[key], this.body) ?? {};
      const kept = Object.entries(now).filter(([key]) => key !== "type" && key in next.properties);
      this.onChange(path, { type: select.value, ...this.schema.skeleton(next), ...Object.fromEntries(kept), type: select.value }, true);
    });
    row.append(label, select);
    return row;
  }

  input(seen, isRequired, value, path) {
    const byDefault = seen.node.default;
    const told = byDefault === undefined || byDefault === null ? (seen.optional ? "left out" : "") : `${JSON.stringify(byDefault).replaceAll('"', "")} (default)`;
    const change = (next) => this.onChange(path, next, false);
    if (seen.kind === "enum" || seen.kind === "boolean") {
      const choices = seen.kind === "enum" ? seen.choices : [true, false];
      const select = this.select(choices.map(String), value === undefined ? undefined : String(value), isRequired ? null : told);
      select.addEventListener("change", () => change(select.value === "" ? undefined : choices.find((one) => String(one) === select.value)));
      return select;
    }
    const input = element("input");
    input.placeholder = told;
    if (seen.kind === "other" || (value !== undefined && value !== null && seen.kind !== "list" && typeof value === "object")) {
      Object.assign(input, { readOnly: true, value: value === undefined ? "" : JSON.stringify(value), placeholder: "edit this one in the text" });
      return input;
    }
    const isNumber = seen.kind === "number" || (seen.kind === "list" && ["integer", "number"].includes(this.schema.follow(seen.node.items || {}).type));
    if (seen.kind === "list") input.placeholder = told || "with commas between";
    else if (isNumber) Object.assign(input, { inputMode: "decimal" });
    input.value = value === undefined || value === null ? "" : Array.isArray(value) ? value.join(", ") : String(value);
    input.addEventListener("change", () => {
      const text = input.value.trim();
      if (text === "" && !isRequired) return change(undefined);
      const read = (one) => (isNumber && one !== "" && Number.isFinite(Number(one)) ? Number(one) : one);
      change(seen.kind === "list" ? text.split(",").map((one) => read(one.trim())).filter((one) => one !== "") : read(text));
    });
    return input;
  }

  select(choices, value, blank) {
    const select = element("select");
    if (blank !== null) select.append(new Option(blank || "left out", ""));
    if (value !== undefined && !choices.includes(value)) select.append(new Option(value, value));
    choices.forEach((one) => select.append(new Option(one, one)));
    select.value = value ?? "";
    return select;
  }

  // Findings beside the fields that they are about.
  mark(findings) {
    this.holder.querySelectorAll(".wrong").forEach((one) => one.remove());
    this.holder.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
    for (const finding of findings) {
      const input = this.holder.querySelector(`[data-path="${CSS.escape(finding.field)}"]`);
      if (!input) continue;
      input.setAttribute("aria-invalid", "true");
      input.closest(".field, fieldset").append(element("p", "wrong", [finding.problem, finding.hint].filter(Boolean).join("; ")));
    }
  }
}
