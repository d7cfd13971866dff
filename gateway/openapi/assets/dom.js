// Elements from values. Nothing here takes markup: what services say stays text.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false && child !== "") element.append(child);
  }
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

// The Markdown that comments are written in: paragraphs, lists, indented code, `code`, links.
export function prose(text) {
  if (!text) return null;
  const blocks = [];
  for (const block of text.split(/\n[ \t]*\n/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    if (!lines.length) continue;
    if (lines.every((line) => /^( {4}|\t)/.test(line))) {
      const code = lines.map((line) => line.replace(/^( {4}|\t)/, "")).join("\n");
      const last = blocks.at(-1);
      if (last?.tagName === "PRE") last.textContent += "\n\n" + code;
      else blocks.push(h("pre", { class: "code" }, code));
    } else if (/^ *[-*] /.test(lines[0])) {
      const items = [];
      for (const line of lines) {
        if (/^ *[-*] /.test(line)) items.push(line.replace(/^ *[-*] /, ""));
        else items[items.length - 1] += " " + line.trim();
      }
      blocks.push(h("ul", {}, items.map((item) => h("li", {}, inline(item)))));
    } else {
      blocks.push(h("p", {}, inline(lines.map((line) => line.trim()).join(" "))));
    }
  }
  return h("div", { class: "prose" }, blocks);
}

const INLINE = /`([^`]+)`|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/g;

export function inline(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(at, match.index));
    const [whole, code, label, target, bare] = match;
    if (code) parts.push(h("code", {}, code));
    else parts.push(h("a", { href: target ?? bare, rel: "noreferrer", target: "_blank" }, label ?? bare));
    at = match.index + whole.length;
  }
  parts.push(text.slice(at));
  return parts;
}

export function copyButton(text) {
  const button = h("button", { type: "button", class: "small copy", onclick: copy }, "Copy");
  let timer;
  async function copy() {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      // Browsers have no clipboard for pages that come without TLS from elsewhere than this machine.
      button.textContent = selectNear(button) ? "Selected" : "Not possible";
    }
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = "Copy"), 1500);
  }
  return button;
}

function selectNear(button) {
  const block = button.parentElement.parentElement.querySelector("pre");
  if (!block) return false;
  getSelection().selectAllChildren(block);
  return true;
}

// JSON in colours. Long texts are left plain: a browser has better things to do.
const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MAX_COLOURED = 200_000;

export function json(value) {
  const text = JSON.stringify(value, null, 2);
  const block = h("pre", { class: "code json" });
  if (text.length > MAX_COLOURED) return append(block, text);
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    block.append(text.slice(at, match.index));
    const [whole, string, colon] = match;
    if (colon) block.append(h("span", { class: "key" }, string), colon);
    else block.append(h("span", { class: string ? "string" : "literal" }, whole));
    at = match.index + whole.length;
  }
  block.append(text.slice(at));
  return block;
}
