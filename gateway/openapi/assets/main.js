// The page: what there is at the left, one method at the right.

import { copyButton, fill, h, prose } from "./dom.js";
import { Form } from "./form.js";
import { Api, KINDS, content } from "./model.js";
import { Result } from "./result.js";
import { command, send } from "./sending.js";

const at = (id) => document.getElementById(id);
let api;
let known = "";
let running;

async function load() {
  const response = await fetch("openapi.json?connect=all", { cache: "no-cache" });
  if (!response.ok) throw new Error(`openapi.json: ${response.status} ${response.statusText}`);
  const text = await response.text();
  if (text === known) return;
  known = text;
  api = new Api(JSON.parse(text));
  document.title = api.info.title;
  at("title").textContent = api.info.title;
  navigation();
  show();
}

// ------------------------------------------------------------------------------------------------------- what there is

function navigation() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (method) => {
    const text = [method.id, method.summary, ...method.ways.map((way) => `${way.verb} ${way.path}`)].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const parts = [];
  for (const service of api.services) {
    const methods = service.methods.filter(matches);
    if (!methods.length) continue;
    const cut = service.name.lastIndexOf(".") + 1;
    parts.push(
      h("h2", { title: service.name }, h("span", { class: "package" }, service.name.slice(0, cut)), h("wbr"), service.name.slice(cut)),
      h("ul", {}, methods.map((method) => h("li", {}, link(method)))),
    );
  }
  if (!parts.length) parts.push(h("p", { class: "quiet" }, words.length ? "Nothing is called like that." : "No services yet."));
  fill(at("nav"), parts);
  mark();
}

function link(method) {
  const badge = method.kind === "unary" ? verb(method.ways[0]) : h("span", { class: "verb stream" }, "stream");
  return h("a", { href: `#/${method.id}`, class: method.deprecated ? "deprecated" : undefined }, badge, h("span", {}, method.name));
}

function verb(way) {
  const rpc = way.protocol === "connect";
  return h("span", { class: `verb ${rpc ? "rpc" : way.verb.toLowerCase()}` }, rpc ? "RPC" : way.verb);
}

function mark() {
  for (const each of at("nav").querySelectorAll("a")) {
    if (each.getAttribute("href") === location.hash) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

// ---------------------------------------------------------------------------------------------------------- one method

function show() {
  running?.abort();
  const method = api.methods.get(decodeURIComponent(location.hash.slice(2)));
  document.title = method ? `${method.name} · ${api.info.title}` : api.info.title;
  fill(at("main"), method ? methodPage(method) : overview());
  mark();
  at("nav").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function overview() {
  const parts = [h("h1", {}, api.info.title), prose(api.info.description)];
  if (location.hash.length > 2) parts.push(h("p", { class: "failure" }, `There is no ${location.hash.slice(2)} here now.`));
  if (!api.services.length) parts.push(h("p", {}, "No service is on the mesh yet. Start one, and come back to this page: it follows."));
  for (const service of api.services) {
    parts.push(
      h(
        "section", { class: "service" }, h("h2", {}, service.name), prose(service.comment),
        h("ul", { class: "methods" }, service.methods.map((method) => h("li", {}, link(method), h("span", { class: "quiet" }, method.summary ?? "")))),
      ),
    );
  }
  return parts;
}

function methodPage(method) {
  const badges = [KINDS[method.kind] && h("span", { class: "badge" }, KINDS[method.kind]), method.deprecated && h("span", { class: "badge warn" }, "deprecated")];
  const place = h("div", { class: "panels" });
  const use = (way) => {
    if (tabs) tabs.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", button.way === way));
    running?.abort();
    fill(place, panels(way));
  };
  const tabs = method.ways.length > 1 && h("div", { class: "ways", role: "group", "aria-label": "Ways to call it" }, method.ways.map((way) => {
    const button = h("button", { type: "button", onclick: () => use(way) }, verb(way), h("code", {}, way.path));
    button.way = way;
    return button;
  }));
  use(method.ways[0]);
  return [
    h("p", { class: "crumb" }, method.service),
    h("h1", {}, method.name, " ", badges),
    prose(method.comment),
    tabs || h("p", { class: "address" }, verb(method.ways[0]), h("code", {}, method.ways[0].path)),
    place,
    schemas(method),
  ];
}

function panels(way) {
  const result = new Result();
  const curl = h("pre", { class: "code", id: "curl" });
  const button = h("button", { type: "submit", class: "main", id: "send" }, "Send");
  const cancel = h("button", { type: "button", id: "cancel", hidden: true, onclick: () => running?.abort() }, "Cancel");
  const form = new Form(api, way, () => describe());
  const describe = () => {
    try {
      curl.textContent = command(form.request());
    } catch (error) {
      curl.textContent = `# ${error.message}`;
    }
  };
  const submit = async (event) => {
    event?.preventDefault();
    running?.abort();
    const controller = (running = new AbortController());
    result.begin();
    if (result.element.getBoundingClientRect().top > innerHeight - 80) result.element.scrollIntoView({ block: "center" });
    button.disabled = true;
    cancel.hidden = false;
    try {
      const request = form.request();
      await send(request, handlers(result), controller.signal);
      result.end();
    } catch (error) {
      if (controller.signal.aborted) {
        result.end("cancelled");
      } else {
        if (result.response || !(error instanceof Error) || error instanceof TypeError) result.broken(error);
        else result.failed_({ code: "not sent", message: error.message });
        result.end("failed");
      }
    } finally {
      button.disabled = false;
      cancel.hidden = true;
    }
  };
  describe();
  const element = h(
    "form", { class: "panel", onsubmit: submit, novalidate: true }, form.element,
    h("div", { class: "actions" }, button, cancel, h("span", { class: "quiet keys" }, "Ctrl + Enter")),
  );
  element.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event));
  const shell = h("section", { class: "panel command", "aria-label": "On the command line" }, h("div", { class: "heading" }, h("h3", {}, "On the command line"), copyButton(() => curl.textContent)), curl);
  return [h("div", { class: "left" }, element, shell), h("section", { class: "panel", "aria-label": "Answer" }, result.element)];
}

function handlers(result) {
  return {
    head: (response) => result.head(response),
    message: (value) => result.message(value),
    failed: (error) => result.failed_(error),
    text: (text, type) => result.text(text, type),
    raw: (blob, type) => result.raw(blob, type),
  };
}

// ------------------------------------------------------------------------------------------------------------- messages

function schemas(method) {
  const way = method.ways.find((each) => each.protocol === "connect") ?? method.ways[0];
  const [, request] = content(way.operation.requestBody);
  const [, response] = content(way.operation.responses["200"]);
  return h("div", { class: "schemas" }, schemaPanel("Request", request?.schema), schemaPanel("Response", response?.schema));
}

function schemaPanel(title, schema) {
  if (!schema) return null;
  const found = api.resolve(schema);
  return h("section", { class: "panel" }, h("h3", {}, title, " ", h("span", { class: "type" }, api.type(schema))), prose(found.description), fieldsOf(found));
}

function fieldsOf(schema) {
  if (schema.enum) return h("p", {}, schema.enum.map((each) => [h("code", {}, each), " "]));
  const fields = Object.entries(schema.properties ?? {});
  if (!fields.length) return schema.properties ? h("p", { class: "quiet" }, "It has no fields.") : null;
  return h("dl", { class: "fields" }, fields.map(([name, field]) => fieldRow(name, field, schema.required?.includes(name))));
}

function fieldRow(name, field, required) {
  const inside = api.inside(field);
  const type = h("span", { class: "type" }, api.type(field), required ? h("b", { title: "required" }, " *") : "");
  const row = [h("dt", { class: field.deprecated ? "deprecated" : undefined }, h("code", {}, name), " ", type)];
  const parts = [prose(field.description)];
  if (inside) {
    // Filled when it is opened: messages may hold themselves.
    const details = h("details", { class: "more" }, h("summary", {}, inside.enum ? "values" : "fields"));
    details.addEventListener("toggle", () => details.children.length > 1 || details.append(field.description ? "" : prose(inside.description) ?? "", fieldsOf(inside) ?? ""), { once: true });
    parts.push(details);
  }
  return [...row, h("dd", {}, parts)];
}

// --------------------------------------------------------------------------------------------------------------- begin

function fail(error) {
  if (!api) fill(at("main"), h("p", { class: "failure" }, `This page could not be filled: ${error.message}`));
}

addEventListener("hashchange", () => api && (show(), at("main").focus({ preventScroll: true }), scrollTo(0, 0)));
addEventListener("focus", () => load().catch(fail));
at("search").addEventListener("input", () => api && navigation());
addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "")) {
    event.preventDefault();
    at("search").select();
  }
});
load().catch(fail);
