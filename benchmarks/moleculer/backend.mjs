// One back-end: a Moleculer service in a process of its own.
// node backend.mjs <nats url>
import { ServiceBroker } from "moleculer";

const broker = new ServiceBroker({ nodeID: `greeter-${process.pid}`, transporter: process.argv[2], logLevel: "warn" });

broker.createService({
  name: "greeter",
  actions: {
    sayHello: (context) => ({ message: `Hello, ${context.params.name}!` }),
  },
});

await broker.start();
