// The request as a form: one field a parameter, an editor for the body, headers.

import { fill, h, inline, prose } from "./dom.js";
import { content } from "./model.js";

// Headers are the same for all methods: who has a token needs it everywhere. Kept until the page is closed.
let typedHeaders = "";

export class Form {
  constructor(api, way, changed) {
    this.api = api;
    this.way = way;
    this.changed = changed;
    this.fields = (way.operation.parameters ?? []).map((parameter) => new Field(api, parameter, changed));
    [this.mediaType, this.body] = content(way.operation.requestBody);
    this.isStream = way.protocol === "connect" && way.method.kind !== "unary";
    this.isMany = this.isStream && way.method.kind !== "server";
    this.isRaw = this.body?.schema?.format === "binary";
    this.element = h("div", { class: "form" }, this.parts());
  }

  parts() {
    const groups = [
      ["Path", this.fields.filter((field) => field.where === "path")],
      ["Query", this.fields.filter((field) => field.where === "query")],
      ["Headers", this.fields.filter((field) => field.where === "header")],
    ];
    const parts = [];
    for (const [title, fields] of groups) {
      if (!fields.length) continue;
      const needed = fields.filter((field) => field.matters);
      const others = fields.filter((field) => !field.matters);
      parts.push(h("h3", {}, title), needed.map((field) => field.element));
      if (others.length && needed.length + others.length > 6) {
        const label = `${others.length} more`;
        parts.push(h("details", { class: "more" }, h("summary", {}, label), others.map((field) => field.element)));
      } else {
        parts.push(others.map((field) => field.element));
      }
    }
    if (this.body) parts.push(this.isRaw ? this.rawBody() : this.jsonBody());
    parts.push(this.headerField());
    return parts;
  }

  jsonBody() {
    const example = this.body.example ?? {};
    const start = JSON.stringify(this.isMany ? [example] : example, null, 2);
    const problem = h("p", { class: "problem", role: "alert" });
    const editor = h("textarea", { id: "body", class: "code", spellcheck: "false", "aria-label": "Body", value: start });
    const check = () => {
      editor.rows = Math.min(24, Math.max(3, editor.value.split("\n").length));
      fill(problem, this.problem());
      this.changed();
    };
    editor.addEventListener("input", check);
    editor.addEventListener("keydown", (event) => indent(event, editor, check));
    this.editor = editor;
    editor.rows = Math.min(24, Math.max(3, start.split("\n").length));
    const reset = h("button", { type: "button", class: "small", onclick: () => ((editor.value = start), check()) }, "Example");
    const type = this.api.type(this.body.schema);
    const title = this.isMany ? ["Messages ", h("span", { class: "type" }, `list of ${type}`)] : ["Body ", h("span", { class: "type" }, type)];
    return [h("div", { class: "heading" }, h("h3", {}, title), reset), editor, problem];
  }

  rawBody() {
    this.file = h("input", { type: "file", id: "file", "aria-label": "File", onchange: () => this.changed() });
    this.text = h("textarea", { id: "raw", class: "code", rows: 3, "aria-label": "Text", oninput: () => this.changed() });
    return [h("h3", {}, "Body ", h("span", { class: "type" }, "bytes")), this.file, h("p", { class: "quiet" }, "or, as text:"), this.text];
  }

  headerField() {
    const area = h("textarea", {
      id: "headers", class: "code", rows: 2, spellcheck: "false", placeholder: "authorization: Bearer …", "aria-label": "Headers", value: typedHeaders,
    });
    area.addEventListener("input", () => ((typedHeaders = area.value), this.changed()));
    return h("details", { class: "more", open: typedHeaders !== "" }, h("summary", {}, "Headers"), area);
  }

  // What is wrong with the body, in words.
  problem() {
    if (!this.editor) return "";
    try {
      const value = JSON.parse(this.editor.value || "null");
      return this.isMany && !Array.isArray(value) ? "A list of messages is expected: [{…}, {…}]" : "";
    } catch (error) {
      return `No valid JSON: ${error.message}`;
    }
  }

  // What `send` and `command` take: {url, verb, headers, body, text, messages, file, streams}. Throws an Error that says
  // what is missing.
  request() {
    const request = { verb: this.way.verb, headers: [], body: undefined, streams: this.way.method.kind !== "unary" };
    let path = this.way.path;
    const query = [];
    for (const field of this.fields) {
      const values = field.values();
      if (field.where === "path") {
        if (!values.length && !field.isMany) throw new Error(`${field.name} is needed: it is part of the path`);
        const value = values[0] ?? "";
        const encoded = field.isMany ? value.split("/").map(encodeURIComponent).join("/") : encodeURIComponent(value);
        path = path.replace(`{${field.name}}`, () => encoded);
      } else if (field.where === "header") {
        for (const value of values) request.headers.push([field.name, value]);
      } else {
        if (!values.length && field.parameter.required) throw new Error(`${field.name} is needed`);
        for (const value of values) query.push(`${encodeURIComponent(field.name)}=${encodeURIComponent(value)}`);
      }
    }
    request.url = location.origin + this.api.base + path + (query.length ? `?${query.join("&")}` : "");
    this.addBody(request);
    for (const line of typedHeaders.split("\n")) {
      if (!line.trim()) continue;
      const match = /^\s*([^\s:]+)\s*:\s*(.*?)\s*$/.exec(line);
      if (!match) throw new Error(`a header is written as "name: value", not as "${line.trim()}"`);
      request.headers.push([match[1], match[2]]);
    }
    return request;
  }

  addBody(request) {
    if (this.isRaw) {
      const file = this.file.files[0];
      request.file = file;
      request.body = file ?? this.text.value;
      request.headers.push(["content-type", file ? file.type || "application/octet-stream" : "text/plain"]);
    } else if (this.body) {
      const problem = this.problem();
      if (problem) throw new Error(problem);
      request.headers.push(["content-type", this.mediaType]);
      request.text = this.editor.value;
      request.body = this.editor.value;
      if (this.isStream) {
        const value = JSON.parse(this.editor.value || "{}");
        request.messages = this.isMany ? value : [value];
      }
    }
  }
}

class Field {
  constructor(api, parameter, changed) {
    this.parameter = parameter;
    this.name = parameter.name;
    this.where = parameter.in;
    this.isMany = parameter["x-natsmesh-segments"] === true;
    const schema = api.resolve(parameter.schema);
    this.isList = schema.type === "array";
    const values = this.isList ? api.resolve(schema.items) : schema;
    const example = parameter.example;
    this.matters = parameter.required || example !== undefined;
    const id = `field-${parameter.in}-${parameter.name}`;
    const shown = example === undefined ? "" : String(example);
    const choices = values.enum ?? (values.type === "boolean" ? ["true", "false"] : null);
    if (choices && !this.isList) {
      this.input = h("select", { id, onchange: changed }, h("option", { value: "" }, "–"), choices.map((each) => h("option", { value: each }, each)));
      this.input.value = parameter.required ? shown : "";
    } else if (this.isList) {
      this.input = h("textarea", { id, rows: 2, oninput: changed, placeholder: "one a line", value: shown });
    } else {
      this.input = h("input", { id, type: "text", autocomplete: "off", spellcheck: "false", oninput: changed, value: shown });
    }
    const type = h("span", { class: "type" }, api.type(parameter.schema), parameter.required ? h("b", { title: "required" }, " *") : "");
    this.element = h(
      "div", { class: "field" },
      h("label", { for: id, class: parameter.deprecated ? "deprecated" : undefined }, h("code", {}, this.name), " ", type),
      this.input,
      parameter.description ? h("div", { class: "hint" }, prose(parameter.description)) : null,
      this.isList && choices ? h("div", { class: "hint" }, inline(choices.map((each) => `\`${each}\``).join(" "))) : null,
    );
  }

  values() {
    if (this.isList) return this.input.value.split("\n").filter((line) => line !== "");
    return this.input.value === "" ? [] : [this.input.value];
  }
}

// Tab would leave the editor; two spaces are what people want. After Escape, Tab leaves it.
let leaving = false;

function indent(event, editor, changed) {
  if (event.key === "Escape") leaving = true;
  else if (event.key !== "Tab") leaving = false;
  if (event.key !== "Tab" || event.shiftKey || leaving) return;
  event.preventDefault();
  editor.setRangeText("  ", editor.selectionStart, editor.selectionEnd, "end");
  changed();
}
