// A textarea with line numbers, and marks at the lines that something is said about.

export class TextEditor {
  constructor(area, gutter, onInput) {
    Object.assign(this, { area, gutter, marked: new Set() });
    area.addEventListener("input", () => (this.number(), onInput()));
    area.addEventListener("scroll", () => (gutter.scrollTop = area.scrollTop));
    area.addEventListener("keydown", (event) => this.indent(event));
    this.number();
  }

  get text() {
    return this.area.value;
  }

  set text(text) {
    const { scrollTop, scrollLeft } = this.area;
    this.area.value = text;
    Object.assign(this.area, { scrollTop, scrollLeft });
    this.number();
  }

  // Marks lines, counted from 1.
  mark(lines) {
    this.marked = new Set(lines);
    this.number();
  }

  number() {
    const count = this.text.split("\n").length;
    const rows = Array.from({ length: count }, (_, place) => {
      const row = document.createElement("div");
      row.textContent = place + 1;
      if (this.marked.has(place + 1)) row.className = "bad";
      return row;
    });
    this.gutter.replaceChildren(...rows);
    this.gutter.scrollTop = this.area.scrollTop;
  }

  goTo(line) {
    const lines = this.text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    this.area.focus();
    this.area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
    this.area.scrollTop = Math.max(0, ((line - 4) * this.area.scrollHeight) / lines.length);
  }

  // Enter keeps the indentation. Tab leaves the field, as everywhere.
  indent(event) {
    if (event.key !== "Enter" || event.isComposing) return;
    const { selectionStart: at, selectionEnd: end, value } = this.area;
    const line = value.slice(value.lastIndexOf("\n", at - 1) + 1, at);
    const indent = line.match(/^ */)[0] + (/:\s*$/.test(line) ? "  " : "");
    event.preventDefault();
    this.area.setRangeText(`\n${indent}`, at, end, "end");
    this.area.dispatchEvent(new Event("input"));
  }
}
