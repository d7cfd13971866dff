// The HTTP gateway: moleculer-web with everything switched off that a plain JSON call does not need.
// node gateway.mjs <nats url> <port>
import { ServiceBroker } from "moleculer";
import ApiGateway from "moleculer-web";

const [transporter, port] = process.argv.slice(2);
const broker = new ServiceBroker({ nodeID: "gateway", transporter, logLevel: "warn" });

broker.createService({
  name: "api",
  mixins: [ApiGateway],
  settings: {
    ip: "127.0.0.1",
    port: Number(port),
    logRequest: null,
    logRequestParams: null,
    logResponse: null,
    routes: [
      {
        path: "/",
        etag: false,
        mappingPolicy: "restrict",
        aliases: { "POST greeter.v1.Greeter/SayHello": "greeter.sayHello" },
        bodyParsers: { json: true },
      },
    ],
  },
});

await broker.start();
