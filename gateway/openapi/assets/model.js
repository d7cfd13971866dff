// The OpenAPI document as this page needs it: services, their methods, and the ways to call each.

export class Api {
  constructor(document) {
    this.document = document;
    this.info = document.info;
    const mount = document.servers?.[0]?.url ?? "/";
    this.base = mount === "/" ? "" : mount;
    this.services = (document.tags ?? []).map((tag) => ({ name: tag.name, comment: tag.description, methods: [] }));
    const services = new Map(this.services.map((service) => [service.name, service]));
    const methods = new Map();
    for (const [path, item] of Object.entries(document.paths)) {
      for (const [verb, operation] of Object.entries(item)) {
        const about = operation["x-natsmesh"];
        let method = methods.get(about.method);
        if (!method) {
          const [service, name] = about.method.split("/");
          method = { id: about.method, service, name, kind: about.kind, ways: [] };
          method.comment = operation.description;
          method.summary = operation.summary;
          method.deprecated = operation.deprecated;
          methods.set(about.method, method);
          services.get(service)?.methods.push(method);
        }
        method.ways.push({ path, verb: verb.toUpperCase(), operation, method, protocol: about.protocol });
      }
    }
    this.methods = methods;
    for (const method of methods.values()) {
      method.ways.sort((a, b) => (a.protocol === "connect") - (b.protocol === "connect"));
    }
  }

  resolve(schema) {
    let seen = 0;
    while (schema?.$ref && seen++ < 10) {
      const { $ref, ...more } = schema;
      schema = { ...this.document.components.schemas[name($ref)], ...more };
    }
    return schema ?? {};
  }

  // What a type is called: `string`, `Book`, `Book[]`, `map of Book`.
  type(schema) {
    if (!schema) return "";
    if (schema.$ref) return name(schema.$ref).split("-")[0].split(".").at(-1);
    if (schema.type === "array") return `${this.type(schema.items)}[]`;
    if (schema.type === "object" && typeof schema.additionalProperties === "object") {
      return `map of ${this.type(schema.additionalProperties)}`;
    }
    if (schema.format === "byte") return "base64";
    if (schema.format === "binary") return "bytes";
    if (schema.format) return schema.format;
    if (schema.anyOf) return schema.anyOf[0].format ?? "any";
    return schema.type ?? (schema.enum ? "enum" : "any");
  }

  // The message or enum that a field leads to, if it has anything to show.
  inside(schema) {
    if (schema?.type === "array") return this.inside(schema.items);
    if (schema?.additionalProperties?.$ref) return this.inside(schema.additionalProperties);
    const found = this.resolve(schema);
    return (schema?.$ref && found.enum) || found.properties ? found : null;
  }
}

export const name = (reference) => reference.slice(reference.lastIndexOf("/") + 1);

// [media type, what is said of it] of a request or a response.
export function content(part) {
  return Object.entries(part?.content ?? {})[0] ?? [null, null];
}

export const KINDS = {
  unary: "",
  server: "server stream",
  client: "client stream",
  bidi: "bidirectional stream",
};
