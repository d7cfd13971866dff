// node ticker.mjs ticker.binpb [nats://127.0.0.1:4222]: serves ticker.v1.Ticker until SIGTERM.
import { setTimeout as sleep } from "node:timers/promises";
import { Backend, StatusError } from "./mesh.mjs";

const [schema, servers = process.env.NATS_URL ?? "nats://127.0.0.1:4222"] = process.argv.slice(2);
let watches = 0;

const backend = new Backend(schema, "1.0.0");
backend.serve("ticker.v1.Ticker", {
  async Quote({ symbol, note }, call) {
    if (symbol === "SLEEP") await sleep(1000, undefined, { signal: call.signal });
    else if (symbol !== "NATS") throw new StatusError(5, `no such symbol: ${symbol}`);
    if (call.metadata["x-echo"]) call.trailers["x-echo"] = call.metadata["x-echo"];
    return { price: 4222, note };
  },

  async *Watch({ symbol, count, padding, pauseMs }, call) {
    watches += 1;
    try {
      for (let number = 0; !count || number < count; number++) {
        yield { number, price: 4222 + number, padding: Buffer.alloc(padding) };
        if (symbol !== "NATS") throw new StatusError(5, `no such symbol: ${symbol}`);
        if (pauseMs) await sleep(pauseMs, undefined, { signal: call.signal });
      }
    } finally {
      watches -= 1;
    }
  },

  async Running() {
    return { watches };
  },
});

process.on("SIGTERM", () => backend.stop().then(() => process.exit(0)));
await backend.start(servers);
console.log(`serving ticker.v1.Ticker as ${backend.id}`);
