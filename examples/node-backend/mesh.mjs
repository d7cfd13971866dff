// A natsmesh back-end: joins the queue group of a service and answers its calls. Written from docs/wire-protocol.md.
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { connect, headers } from "@nats-io/transport-node";
import protobuf from "protobufjs";
import "protobufjs/ext/descriptor/index.js";
import descriptor from "protobufjs/ext/descriptor/index.js";
import { Call, MAX_MESSAGE, StatusError, timeoutMs } from "./call.mjs";
import { percentEncode } from "./packets.mjs";

export { StatusError };

const SWEEP_MS = 500;
const SILENCE_MS = 5000;
const ACCEPT_MS = 10;

export class Backend {
  // `schemaFile`: a FileDescriptorSet with all imports, as `protoc --include_imports --descriptor_set_out` writes it.
  constructor(schemaFile, version = "0.0.0") {
    this.schema = readFileSync(schemaFile);
    this.digest = createHash("sha256").update(this.schema).digest("hex");
    this.root = protobuf.Root.fromDescriptor(descriptor.FileDescriptorSet.decode(this.schema)).resolveAll();
    this.version = version;
    this.id = randomBytes(8).toString("hex");
    this.services = new Map();
    this.calls = new Map(); // by reply subject
    this.silentSince = new Map();
    this.started = new Date().toISOString();
  }

  // `methods`: name to async function(request, call), or async function*(request, call) for a stream of responses.
  serve(name, methods) {
    const types = this.root.lookupService(name);
    const entries = Object.keys(types.methods).map((method) => [
      method,
      { ...methodOf(types, method), run: methods[method], stats: { requests: 0, errors: 0, ns: 0, last: "" } },
    ]);
    this.services.set(name, new Map(entries));
  }

  async start(servers) {
    this.nats = await connect({ servers, reconnectTimeWait: 250, maxReconnectAttempts: -1 });
    const on = (subject, take, queue) =>
      this.nats.subscribe(subject, { queue, callback: (error, message) => error || take(message) });
    on(`inst.${this.id}.>`, (message) => this.forInstance(message));
    this.subscriptions = [...this.services.keys()].map((name) => on(`rpc.${name}.*`, (m) => this.receive(m), "q"));
    on(`schema.${this.digest}`, (message) => message.respond(this.schema), "q");
    for (const verb of ["PING", "INFO", "STATS"]) {
      const answer = (names) => (message) =>
        names.forEach((name) => message.respond(JSON.stringify(this.describe(verb, name))));
      on(`$SRV.${verb}`, answer([...this.services.keys()]));
      for (const name of this.services.keys()) {
        const srv = name.replaceAll(".", "_");
        on(`$SRV.${verb}.${srv}`, answer([name]));
        on(`$SRV.${verb}.${srv}.${this.id}`, answer([name]));
      }
    }
    await this.nats.flush();
    this.announce("up");
    this.sweeper = setInterval(() => this.sweep(), SWEEP_MS);
  }

  // Takes no more calls, answers those that it has, leaves.
  async stop() {
    this.announce("draining");
    await Promise.all(this.subscriptions.map((subscription) => subscription.drain()));
    while (this.calls.size) await new Promise((resolve) => setTimeout(resolve, 20));
    this.announce("down");
    clearInterval(this.sweeper);
    await this.nats.drain();
  }

  receive(message) {
    if (!message.reply) return;
    const name = message.subject.slice(message.subject.lastIndexOf("rpc.") + 4);
    const dot = name.lastIndexOf(".");
    const method = this.services.get(name.slice(0, dot))?.get(name.slice(dot + 1));
    if (!method) return this.fail(message.reply, 12, `Method ${name.slice(dot + 1)} not found!`, {});
    this.run(method, message).catch((error) => console.error("unexpected:", error));
  }

  async run(method, message) {
    const { reply } = message;
    const began = process.hrtime.bigint();
    const call = new Call(metadataOf(message.headers), (payload) => this.nats.publish(reply, payload, first()));
    let silent = true;
    const first = () => {
      if (!silent) return undefined;
      silent = false;
      return { headers: headersOf({ "mesh-accepted": this.id }) };
    };
    this.calls.set(reply, { call, since: Date.now() });
    const timers = [setTimeout(() => silent && this.nats.publish(reply, "", first()), ACCEPT_MS)];
    let error = null;
    try {
      const timeout = header(message.headers, "grpc-timeout");
      if (timeout) timers.push(setTimeout(() => call.abort(4, "Deadline Exceeded"), timeoutMs(timeout)));
      const packets = Boolean(header(message.headers, "mesh-stream"));
      if (packets) call.receive(message.data);
      const body = packets ? await call.request() : plainBody(message);
      const request = method.request.decode(body);
      if (!method.run) throw new StatusError(12, "Method not implemented!");
      const outcome = method.run(request, call);
      const response = method.streams ? await this.stream(method, call, outcome) : await raced(call, outcome);
      if (!method.streams) {
        const bytes = Buffer.from(method.response.encode(method.response.fromObject(response)).finish());
        if (packets || bytes.length > this.nats.info.max_payload - 32 * 1024) await call.send(bytes);
        else return this.nats.publish(reply, bytes, { headers: trailersOf(call) });
      }
      call.status(0, "");
    } catch (raised) {
      error = raised instanceof StatusError ? raised : new StatusError(2, "Unexpected exception in the back-end");
      if (error !== raised) console.error(raised);
      if (silent) this.fail(reply, error.code, error.message, call.trailers);
      else if (call.sequence) call.status(error.code, error.message);
      else this.fail(reply, error.code, error.message, call.trailers);
    } finally {
      timers.forEach(clearTimeout);
      this.calls.delete(reply);
      method.stats.requests += 1;
      method.stats.ns += Number(process.hrtime.bigint() - began);
      if (error) Object.assign(method.stats, { errors: method.stats.errors + 1, last: error.message });
    }
  }

  async stream(method, call, responses) {
    try {
      for (;;) {
        const { done, value } = await raced(call, responses.next());
        if (done) return;
        await call.send(Buffer.from(method.response.encode(method.response.fromObject(value)).finish()));
      }
    } finally {
      responses.return().catch(() => {});
    }
  }

  fail(reply, code, details, trailers) {
    const message = percentEncode(details);
    const fields = { "grpc-status": `${code}`, "grpc-message": message };
    fields["Nats-Service-Error"] = message || `${code}`;
    fields["Nats-Service-Error-Code"] = `${code}`;
    for (const [key, value] of Object.entries(trailers)) fields[`mesh-trailer-${key}`] = value;
    this.nats.publish(reply, "", { headers: headersOf(fields) });
  }

  // ---- what is meant for this instance alone

  forInstance(message) {
    const kind = message.subject.slice(`inst.${this.id}.`.length);
    if (kind.startsWith("stream.")) this.calls.get(kind.slice(7))?.call.receive(message.data);
    else if (kind === "cancel") this.calls.get(message.string())?.call.abort(1, "the caller cancelled the call");
    else if (kind === "roll") {
      const inbox = message.reply.slice(0, message.reply.lastIndexOf("."));
      message.respond(tokens(message).filter((token) => !this.calls.has(`${inbox}.${token}`)).join("\n"));
    } else if (kind.startsWith("rolled.")) this.rollAnswered(kind.slice(7), message);
    else if (kind.startsWith("rpc.")) this.receive(message);
  }

  sweep() {
    const byInbox = new Map();
    for (const [reply, { since }] of this.calls) {
      if (Date.now() - since < SWEEP_MS || !reply.includes(".mesh.")) continue;
      const cut = reply.lastIndexOf(".");
      const inbox = reply.slice(0, cut);
      byInbox.set(inbox, [...(byInbox.get(inbox) ?? []), reply.slice(cut + 1)]);
    }
    for (const inbox of this.silentSince.keys()) if (!byInbox.has(inbox)) this.silentSince.delete(inbox);
    for (const [inbox, names] of byInbox) {
      if (!this.silentSince.has(inbox)) this.silentSince.set(inbox, Date.now());
      if (Date.now() - this.silentSince.get(inbox) > SILENCE_MS) this.abortAll(inbox, names);
      else this.nats.publish(`${inbox}.roll`, names.join("\n"), { reply: `inst.${this.id}.rolled.${inbox}` });
    }
  }

  rollAnswered(inbox, message) {
    if (message.headers?.code === 503) {
      return this.abortAll(inbox, [...this.calls.keys()].map((reply) => reply.slice(inbox.length + 1)));
    }
    this.silentSince.delete(inbox);
    this.abortAll(inbox, tokens(message));
  }

  abortAll(inbox, names) {
    for (const name of names) this.calls.get(`${inbox}.${name}`)?.call.abort(1, "the caller is gone");
  }

  // ---- discovery (ADR-32)

  describe(verb, name) {
    const methods = [...this.services.get(name)];
    const base = (method) => ({ name: method, subject: `rpc.${name}.${method}`, queue_group: "q" });
    const endpoints = {
      INFO: () => methods.map(([method, { streams }]) => ({
        ...base(method),
        metadata: { "mesh-method": `${name}/${method}`, kind: streams ? "server-stream" : "unary" },
      })),
      STATS: () => methods.map(([method, { stats }]) => ({
        ...base(method), num_requests: stats.requests, num_errors: stats.errors, last_error: stats.last,
        processing_time: stats.ns, average_processing_time: stats.requests ? Math.floor(stats.ns / stats.requests) : 0,
      })),
    }[verb];
    return {
      type: `io.nats.micro.v1.${verb.toLowerCase()}_response`,
      name: name.replaceAll(".", "_"), id: this.id, version: this.version,
      metadata: { "mesh-service": name, "mesh-wire": "1", "mesh-schema": this.digest },
      ...(verb === "INFO" && { description: "" }),
      ...(verb === "STATS" && { started: this.started }),
      ...(endpoints && { endpoints: endpoints() }),
    };
  }

  announce(event) {
    for (const name of this.services.keys()) {
      this.nats.publish(`mesh.announce.${event}`, JSON.stringify({ ...this.describe("INFO", name), event }));
    }
  }
}

function methodOf(types, name) {
  const method = types.methods[name];
  return {
    request: method.resolvedRequestType, response: method.resolvedResponseType, streams: Boolean(method.responseStream),
  };
}

// What a handler promises, or the reason for which its call was aborted, whichever comes first.
function raced(call, promise) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(call.signal.reason);
    if (call.signal.aborted) return stop();
    call.signal.addEventListener("abort", stop, { once: true });
    Promise.resolve(promise).then(resolve, reject).finally(() => call.signal.removeEventListener("abort", stop));
  });
}

function plainBody(message) {
  if (message.data.length > MAX_MESSAGE) throw new StatusError(8, "Received message larger than max");
  const encoding = header(message.headers, "grpc-encoding") || "identity";
  if (encoding === "gzip") return gunzipSync(message.data, { maxOutputLength: MAX_MESSAGE });
  if (encoding !== "identity") throw new StatusError(12, `unknown message encoding ${encoding}`);
  return message.data;
}

const tokens = (message) => message.string().split("\n").filter(Boolean);
const header = (all, name) => (all?.has(name) ? all.get(name) : "");

function metadataOf(all) {
  const metadata = {};
  for (const [name, values] of all ?? []) {
    if (/^[0-9a-z_.-]+$/.test(name) && !/^(grpc|mesh|nats)-/.test(name)) metadata[name] = values[0];
  }
  return metadata;
}

function headersOf(fields) {
  const result = headers();
  for (const [name, value] of Object.entries(fields)) result.set(name, value);
  return result;
}

function trailersOf(call) {
  const names = Object.keys(call.trailers);
  if (!names.length) return undefined;
  return headersOf(Object.fromEntries(names.map((name) => [`mesh-trailer-${name}`, call.trailers[name]])));
}
