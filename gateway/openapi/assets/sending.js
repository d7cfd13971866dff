// Sends a request, and hands on what comes back as it comes.

const END_OF_STREAM = 2;
const COMPRESSED = 1;

// Calls what of `on` is due: head(response), message(value), failed(error), raw(blob), text(string), done().
export async function send(request, on, signal) {
  const response = await fetch(request.url, {
    method: request.verb,
    headers: request.headers,
    body: request.messages ? new Blob(request.messages.map(envelope)) : request.body,
    signal,
    cache: "no-store",
    redirect: "manual",
  });
  on.head(response);
  const type = (response.headers.get("content-type") ?? "").split(";")[0].trim().toLowerCase();
  if (type === "application/x-ndjson") await lines(response, on);
  else if (type === "application/connect+json") await envelopes(response, on);
  else if (type === "application/json" || type.startsWith("text/")) on.text(await response.text(), type);
  else on.raw(await response.blob(), type);
}

async function lines(response, on) {
  const decoder = new TextDecoder();
  let left = "";
  for await (const part of chunks(response)) {
    left += decoder.decode(part, { stream: true });
    const whole = left.split("\n");
    left = whole.pop();
    for (const line of whole) if (line) take(JSON.parse(line), on);
  }
  if (left.trim()) take(JSON.parse(left), on);
}

function take(value, on) {
  const keys = Object.keys(value ?? {});
  // A failure on the way is the one field of the last line.
  if (keys.length === 1 && keys[0] === "error" && typeof value.error?.code === "number") on.failed(value.error);
  else on.message(value);
}

async function envelopes(response, on) {
  let left = new Uint8Array(0);
  let ended = false;
  for await (const part of chunks(response)) {
    const joined = new Uint8Array(left.length + part.length);
    joined.set(left);
    joined.set(part, left.length);
    left = joined;
    while (left.length >= 5) {
      const length = new DataView(left.buffer, left.byteOffset).getUint32(1);
      if (left.length < 5 + length) break;
      const flags = left[0];
      if (flags & COMPRESSED) throw new Error("the answer is compressed, which was not asked for");
      const value = JSON.parse(new TextDecoder().decode(left.subarray(5, 5 + length)) || "{}");
      left = left.subarray(5 + length);
      if (flags & END_OF_STREAM) {
        ended = true;
        if (value.error) on.failed(value.error);
      } else {
        on.message(value);
      }
    }
  }
  if (!ended) throw new Error("the stream was cut off");
}

async function* chunks(response) {
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

function envelope(message) {
  const data = new TextEncoder().encode(JSON.stringify(message));
  const head = new Uint8Array(5);
  new DataView(head.buffer).setUint32(1, data.length);
  return new Blob([head, data]);
}

// The same request as a command to type.
export function command(request) {
  if (request.messages) return bufCurl(request);
  const words = request.streams ? ["curl -N"] : ["curl"];
  const lines = [];
  const hasBody = request.body !== undefined;
  if (request.verb !== (hasBody ? "POST" : "GET")) words.push("-X", request.verb);
  words.push(quote(request.url));
  for (const [name, value] of request.headers) lines.push(`-H ${quote(`${name}: ${value}`)}`);
  if (request.file) lines.push(`--data-binary ${quote(`@${request.file.name}`)}`);
  else if (hasBody) lines.push(`--data-binary ${quote(short(request))}`);
  return [words.join(" "), ...lines].join(" \\\n  ");
}

// curl cannot write the envelopes of a stream; buf can, and learns the schema from the gateway by reflection.
function bufCurl(request) {
  const data = request.messages.map((message) => JSON.stringify(message)).join("\n");
  const lines = ["buf curl --protocol grpc --http2-prior-knowledge", `-d ${quote(data)}`];
  if (location.protocol === "https:") lines[0] = "buf curl --protocol grpc";
  for (const [name, value] of request.headers) {
    if (name !== "content-type") lines.push(`-H ${quote(`${name}: ${value}`)}`);
  }
  return [...lines, quote(request.url)].join(" \\\n  ");
}

function short(request) {
  if (request.text === undefined) return request.body;
  try {
    return JSON.stringify(JSON.parse(request.text));
  } catch {
    return request.text;
  }
}

const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
