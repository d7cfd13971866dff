// What came back: status, time, headers, and the body in a form that people can read.

import { append, copyButton, fill, h, json } from "./dom.js";

const MAX_SHOWN = 1000;
const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
  "DATA_LOSS", "UNAUTHENTICATED",
];

export class Result {
  constructor() {
    this.summary = h("div", { class: "summary", role: "status" });
    this.failure = h("div", {});
    this.body = h("div", { class: "answer" });
    this.headers = h("div", {});
    this.element = h("div", { class: "result", id: "result" }, this.summary, this.failure, this.body, this.headers);
  }

  begin() {
    this.started = performance.now();
    this.response = null;
    this.count = 0;
    this.size = null;
    this.urls?.forEach((url) => URL.revokeObjectURL(url));
    this.urls = [];
    this.list = null;
    for (const part of [this.failure, this.body, this.headers]) fill(part);
    this.element.dataset.state = "sending";
    fill(this.summary, h("span", { class: "quiet" }, "Sending…"));
  }

  head(response) {
    this.response = response;
    this.waited = performance.now() - this.started;
    const rows = [...response.headers].map(([name, value]) => h("tr", {}, h("th", {}, name), h("td", {}, value)));
    fill(this.headers, h("details", { class: "more" }, h("summary", {}, `Headers (${rows.length})`), h("table", { class: "headers" }, rows)));
    this.tell("open");
  }

  tell(state) {
    this.element.dataset.state = state;
    const { status } = this.response ?? {};
    const parts = [];
    if (status) {
      const good = status < 400 && !this.failed;
      parts.push(h("span", { class: `status ${good ? "good" : "bad"}` }, `${status} ${REASONS[status] ?? this.response.statusText}`));
      parts.push(h("span", {}, `${Math.round(state === "open" ? this.waited : performance.now() - this.started)} ms`));
    }
    if (this.count) parts.push(h("span", {}, `${this.count} message${this.count === 1 ? "" : "s"}`));
    if (this.size !== null) parts.push(h("span", {}, bytes(this.size)));
    const words = { open: this.count ? "stream is open" : "", cancelled: "cancelled" };
    if (words[state]) parts.push(h("span", { class: "quiet" }, words[state]));
    fill(this.summary, parts);
  }

  message(value) {
    if (!this.list) this.list = append(this.body, h("ol", { class: "messages", "aria-live": "polite" })).lastChild;
    this.count += 1;
    const at = ((performance.now() - this.started) / 1000).toFixed(2);
    const isNear = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    this.list.append(h("li", {}, h("span", { class: "when" }, `#${this.count}  ${at} s`), json(value)));
    if (this.list.children.length > MAX_SHOWN) this.list.firstChild.remove();
    if (isNear) this.list.scrollTop = this.list.scrollHeight;
    this.tell("open");
  }

  failed_(error) {
    this.failed = true;
    const code = typeof error.code === "number" ? CODES[error.code] ?? `code ${error.code}` : String(error.code ?? "error").toUpperCase();
    fill(
      this.failure,
      h(
        "div", { class: "failure", role: "alert" }, h("b", {}, code), error.message ? h("p", {}, error.message) : null,
        error.details?.length ? [h("p", { class: "quiet" }, "Details"), json(error.details.map((detail) => detail.debug ? { "@type": detail.type, ...detail.debug } : detail))] : null,
      ),
    );
  }

  text(text, type) {
    this.size = new Blob([text]).size;
    let value;
    if (type === "application/json") {
      try {
        value = JSON.parse(text);
      } catch {
        // Shown as it is.
      }
    }
    if (!this.response.ok && typeof value?.message === "string") this.failed_(value);
    else if (!this.response.ok && typeof value?.code === "string") this.failed_(value);
    else if (!this.response.ok) this.failed_({ code: `HTTP ${this.response.status}`, message: text.slice(0, 2000) });
    if (this.response.ok || value === undefined) this.show(value === undefined ? h("pre", { class: "code" }, text) : json(value), text);
    else append(this.body, h("details", { class: "more" }, h("summary", {}, "As it came"), json(value)));
  }

  show(block, text) {
    append(this.body, [h("div", { class: "heading" }, h("h3", {}, "Answer"), copyButton(() => text)), block]);
  }

  raw(blob, type) {
    this.size = blob.size;
    const url = URL.createObjectURL(blob);
    this.urls.push(url);
    const link = h("a", { href: url, download: `answer${EXTENSIONS[type] ?? ""}` }, "Download");
    append(this.body, [
      h("div", { class: "heading" }, h("h3", {}, "Answer ", h("span", { class: "type" }, type || "bytes")), link),
      type.startsWith("image/") && type !== "image/svg+xml" ? h("img", { src: url, alt: "The answer" }) : null,
    ]);
  }

  broken(error) {
    this.failed_({ code: "no answer", message: this.response ? error.message : `${error.message}. Is the gateway there?` });
  }

  end(state = "done") {
    if (!this.response && state === "cancelled") fill(this.summary, h("span", { class: "quiet" }, "cancelled"));
    else if (this.response) this.tell(state);
    else fill(this.summary);
    this.element.dataset.state = state;
    this.failed = false;
  }
}

const REASONS = {
  200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
  405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 412: "Precondition Failed", 413: "Content Too Large",
  415: "Unsupported Media Type", 429: "Too Many Requests", 499: "Client Closed Request", 500: "Internal Server Error",
  501: "Not Implemented", 503: "Service Unavailable", 504: "Gateway Timeout",
};

const EXTENSIONS = { "image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "application/pdf": ".pdf", "application/zip": ".zip" };

function bytes(size) {
  if (size < 1024) return `${size} B`;
  return size < 1024 ** 2 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 1024 ** 2).toFixed(1)} MiB`;
}
