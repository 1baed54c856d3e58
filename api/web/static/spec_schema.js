// Reads the JSON Schema of specifications as a form needs it: references followed, unions and what may be left out told.

export class SpecSchema {
  constructor(root) {
    this.root = root;
    this.definitions = root.$defs || {};
  }

  // {kind, node, optional, members}: kind is object, union, enum, boolean, number, text, list or other.
  look(node) {
    let optional = false;
    let found = this.follow(node);
    if (found.anyOf) {
      const members = found.anyOf.map((one) => this.follow(one));
      const rest = members.filter((one) => one.type !== "null");
      optional = rest.length < members.length;
      found = rest.length === 1 ? { ...rest[0], default: node.default, description: node.description || rest[0].description } : { ...found, anyOf: rest };
    }
    return { optional, node: { ...found, default: node.default ?? found.default }, about: node.description || "", ...this.kindOf(found) };
  }

  kindOf(node) {
    if (node.discriminator || node.oneOf) {
      const members = node.oneOf.map((one) => this.follow(one));
      return { kind: "union", members: Object.fromEntries(members.map((one) => [one.properties.type.const, one])) };
    }
    if (node.properties) return { kind: "object" };
    if (node.enum) return { kind: "enum", choices: node.enum };
    if (node.const !== undefined) return { kind: "enum", choices: [node.const] };
    if (node.type === "boolean") return { kind: "boolean" };
    if (node.type === "integer" || node.type === "number") return { kind: "number" };
    if (node.type === "string") return { kind: "text" };
    if (node.type === "array" && !this.isComplex(node.items)) return { kind: "list" };
    return { kind: "other" };
  }

  isComplex(items = {}) {
    const node = this.follow(items);
    return Boolean(node.properties || node.oneOf || node.anyOf || node.type === "array" || node.type === "object");
  }

  follow(node) {
    return node.$ref ? { ...this.definitions[node.$ref.split("/").pop()], ...without(node, "$ref") } : node;
  }

  // The least that a value of this kind must have, for a person to fill in.
  skeleton(node) {
    const seen = this.look(node);
    if (seen.kind === "union") return { type: Object.keys(seen.members)[0], ...this.skeleton(Object.values(seen.members)[0]) };
    if (seen.kind === "object") {
      const needed = [...(seen.node.required || []), ...("path" in seen.node.properties ? ["path"] : [])];
      return Object.fromEntries([...new Set(needed)].map((name) => [name, this.skeleton(seen.node.properties[name])]));
    }
    if (seen.node.default !== undefined && seen.node.default !== null) return seen.node.default;
    if (seen.kind === "list") return [];
    if (seen.kind === "enum") return seen.choices[0];
    // Nothing that could be taken for a person's own choice: the service asks for it.
    return seen.kind === "text" ? "" : null;
  }
}

const without = (node, name) => Object.fromEntries(Object.entries(node).filter(([key]) => key !== name));
