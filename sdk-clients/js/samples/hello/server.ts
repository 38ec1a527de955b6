// Hosts the service `greeter`, without an SDK: what an SDK has to do is in `host.ts`.
//
//   kar run --app hello --service greeter -- node sdk-clients/js/dist/samples/hello/server.js
//   kar call --app hello greeter hello '{"name":"Alan"}'

import type { Payload } from "../../gen/kar/v1/common.js";
import { Failure, Host, json, parse } from "./host.js";

type Argument = { name: string; millis?: number };
type Method = (argument: Argument, signal: AbortSignal) => Promise<string>;

const METHODS: { [name: string]: Method } = {
  async hello({ name }) {
    return `Hello, ${name}!`;
  },

  async slow({ name, millis = 0 }, signal) {
    await pause(millis, signal);
    return `Hello, ${name}!`;
  },
};

function argument(payload: Payload | undefined): Argument {
  const value = payload?.body ? parse<Partial<Argument> | null>(payload) : {};
  if (typeof value?.name !== "string") throw new TypeError('the argument must be like {"name":"Alan"}');
  return { ...value, name: value.name };
}

function pause(millis: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, millis);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Error("cancelled"));
    });
  });
}

const methods = Object.keys(METHODS).map((name) => ({ name }));
const hello = { sdk: "hello-js/0.1.0", services: [{ name: "greeter", methods }] };
new Host(hello, async ({ method: name, payload }, signal) => {
  const method = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined;
  if (!method) {
    const known = Object.keys(METHODS).join(", ");
    throw new Failure("kar.UNKNOWN_METHOD", `greeter has no method '${name}'; it has: ${known}`);
  }
  return json(await method(argument(payload), signal));
});
