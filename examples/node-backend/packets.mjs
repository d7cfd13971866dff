// Packets and frames (docs/wire-protocol.md, "Packets"): bytes in, frames out, and the other way.

export const Frame = {
  HEADERS: 1, MESSAGE: 2, GZIP_MESSAGE: 3, PART: 4, MORE: 5, HALF_CLOSE: 6, CREDIT: 7, STATUS: 8, CANCEL: 9,
};

export class ProtocolError extends Error {}

export function frame(type, body = Buffer.alloc(0)) {
  const head = Buffer.alloc(5);
  head.writeUInt8(type, 0);
  head.writeUInt32BE(body.length, 1);
  return Buffer.concat([head, body]);
}

export function packet(sequence, frames) {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(sequence >>> 0, 0);
  return Buffer.concat([head, ...frames]);
}

export function parsePacket(bytes) {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (data.length < 4) throw new ProtocolError("a packet has no sequence number");
  const frames = [];
  for (let at = 4; at < data.length; ) {
    if (data.length - at < 5) throw new ProtocolError("a packet ends within a frame header");
    const type = data.readUInt8(at);
    const length = data.readUInt32BE(at + 1);
    at += 5;
    if (type < 1 || type > 9) throw new ProtocolError(`unknown frame type ${type}`);
    if (data.length - at < length) throw new ProtocolError("a frame is cut off");
    frames.push([type, data.subarray(at, at + length)]);
    at += length;
  }
  return [data.readUInt32BE(0), frames];
}

export function uint32(value) {
  const body = Buffer.alloc(4);
  body.writeUInt32BE(value);
  return body;
}

export function partHead(total) {
  const head = Buffer.alloc(9);
  head.writeBigUInt64BE(BigInt(total), 1);
  return head;
}

export function statusBody(code, details, trailers) {
  const text = Buffer.from(percentEncode(details));
  const head = Buffer.alloc(3);
  head.writeUInt8(code, 0);
  head.writeUInt16BE(text.length, 1);
  const lines = Object.entries(trailers).map(([key, value]) => `mesh-trailer-${key}: ${value}\r\n`).join("");
  return Buffer.concat([head, text, Buffer.from(lines)]);
}

// gRPC's percent-encoding of status details: printable ASCII but "%" stays, and so does a space that is not at an end.
export function percentEncode(text) {
  const bytes = Buffer.from(text).subarray(0, 4096);
  let result = "";
  bytes.forEach((byte, at) => {
    const plain = byte > 0x20 && byte < 0x7f && byte !== 0x25;
    const space = byte === 0x20 && at > 0 && at < bytes.length - 1;
    result += plain || space ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  });
  return result;
}
