// One call that is being served, and the packets of those that need them (docs/wire-protocol.md).
import { gunzipSync } from "node:zlib";
import { Frame, ProtocolError, frame, packet, parsePacket, partHead, statusBody, uint32 } from "./packets.mjs";

const INITIAL_WINDOW = 1024 * 1024;
const MESSAGE_COST = 64;
const MAX_PACKET = 256 * 1024;
export const MAX_MESSAGE = 4 * 1024 * 1024;

export class StatusError extends Error {
  constructor(code, details) {
    super(details);
    this.code = code;
  }
}

const UNITS = { H: 3600e3, M: 60e3, S: 1e3, m: 1, u: 1e-3, n: 1e-6 };

export function timeoutMs(text) {
  const match = /^([0-9]{1,8})([HMSmun])$/.exec(text);
  if (!match) throw new ProtocolError(`malformed grpc-timeout: ${text}`);
  return Number(match[1]) * UNITS[match[2]];
}

export class Call {
  constructor(metadata, publish) {
    this.metadata = metadata; // lower-case names to text; -bin values are base64
    this.trailers = {};
    this.aborter = new AbortController();
    this.signal = this.aborter.signal; // handlers stop when it is aborted
    this.publish = publish; // (payload) to the reply subject
    this.sequence = 0; // of the next packet that we send
    this.expected = 0; // of the next packet that comes
    this.credit = INITIAL_WINDOW;
    this.ungranted = 0;
    this.inbound = [];
    this.assembly = null;
    this.halfClosed = false;
    this.waiting = []; // those who wait for credit, a message, or the end
  }

  abort(code, details) {
    if (!this.signal.aborted) this.aborter.abort(new StatusError(code, details));
    this.wake();
  }

  wake() {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  // Resolves at the next change, whatever it is. Throws once the call was aborted.
  async change() {
    if (!this.signal.aborted) await new Promise((resolve) => this.waiting.push(resolve));
    this.signal.throwIfAborted();
  }

  receive(bytes) {
    try {
      const [sequence, frames] = parsePacket(bytes);
      if (sequence !== this.expected) throw new ProtocolError(`packet ${sequence} where ${this.expected} was due`);
      this.expected = (this.expected + 1) >>> 0;
      for (const [type, body] of frames) this.take(type, body);
      this.wake();
    } catch (error) {
      if (!(error instanceof ProtocolError || error instanceof StatusError)) throw error;
      this.abort(error.code ?? 13, error.message);
    }
  }

  take(type, body) {
    if (type === Frame.CANCEL) return this.abort(1, "the caller cancelled the call");
    if (type === Frame.CREDIT && body.length === 4) return void (this.credit += body.readUInt32BE(0));
    if (this.halfClosed) throw new ProtocolError(`frame ${type} after HALF_CLOSE`);
    if (type === Frame.MORE && this.assembly) return this.more(body);
    if (this.assembly) throw new ProtocolError(`frame ${type} within a message`);
    if (type === Frame.MESSAGE || type === Frame.GZIP_MESSAGE) {
      this.message(body, type === Frame.GZIP_MESSAGE, body.length + MESSAGE_COST);
    } else if (type === Frame.PART && body.length >= 9) {
      const total = Number(body.readBigUInt64BE(1));
      if (total > MAX_MESSAGE) throw new StatusError(8, `message larger than max (${total} vs. ${MAX_MESSAGE})`);
      this.assembly = { total, gzip: body.readUInt8(0) === 1, size: 0, parts: [] };
      this.consumed(MESSAGE_COST);
      this.more(body.subarray(9));
    } else if (type === Frame.HALF_CLOSE) {
      this.halfClosed = true;
    } else {
      throw new ProtocolError(`frame ${type} is not allowed here`);
    }
  }

  more(body) {
    const { assembly } = this;
    assembly.parts.push(Buffer.from(body));
    assembly.size += body.length;
    if (assembly.size > assembly.total) throw new ProtocolError("the parts do not add up");
    if (assembly.size < assembly.total) return this.consumed(body.length);
    this.assembly = null;
    this.message(Buffer.concat(assembly.parts), assembly.gzip, body.length);
  }

  message(body, gzip, cost) {
    if (body.length > MAX_MESSAGE) throw new StatusError(8, "message larger than max");
    this.inbound.push([gzip ? gunzipSync(body, { maxOutputLength: MAX_MESSAGE }) : Buffer.from(body), cost]);
  }

  consumed(cost) {
    this.ungranted += cost;
    if (this.ungranted * 2 >= INITIAL_WINDOW && !this.halfClosed) {
      this.packet([frame(Frame.CREDIT, uint32(this.ungranted))]);
      this.ungranted = 0;
    }
  }

  async request() {
    while (!this.inbound.length) await this.change();
    const [body, cost] = this.inbound.shift();
    this.consumed(cost);
    return body;
  }

  packet(frames) {
    this.publish(packet(this.sequence, frames));
    this.sequence = (this.sequence + 1) >>> 0;
  }

  // Sends a message in as many packets as it takes, as the caller's credit allows.
  async send(body) {
    const cost = body.length + MESSAGE_COST;
    if (body.length + 9 <= MAX_PACKET) {
      while (this.credit < cost) await this.change();
      this.credit -= cost;
      return this.packet([frame(Frame.MESSAGE, body)]);
    }
    for (let at = 0; at < body.length; ) {
      const first = at === 0;
      const head = first ? partHead(body.length) : Buffer.alloc(0);
      const price = first ? MESSAGE_COST : 0;
      while (this.credit < price + 1024) await this.change();
      const size = Math.min(body.length - at, MAX_PACKET - 9 - head.length, this.credit - price);
      this.credit -= price + size;
      this.packet([frame(first ? Frame.PART : Frame.MORE, Buffer.concat([head, body.subarray(at, at + size)]))]);
      at += size;
    }
  }

  status(code, details) {
    this.packet([frame(Frame.STATUS, statusBody(code, details, this.trailers))]);
  }
}
