// Hosts the actor type `Sum`, and has the numbers of a topic delivered to it, without an SDK: each instance adds up the
// numbers that have its id as their key.
//
//   kar topic create --app numbers numbers
//   kar run --app numbers --actors Sum -- node sdk-clients/js/dist/samples/events/sums.js numbers
//   kar publish --app numbers numbers 5 --type number --key alice
//   kar call --app numbers --actor Sum alice total

import type { InvocationFrame } from "../../gen/kar/v1/component.js";
import { Subscription } from "../../gen/kar/v1/event.js";
import { ActorStateServiceGetRequest } from "../../gen/kar/v1/state.js";
import { Failure, Host, json, parse } from "../hello/host.js";

/** Where an instance keeps its sum. */
const KEY = "total";

const METHODS: { [name: string]: (invocation: InvocationFrame) => Promise<number> } = {
  /**
   * Is told of an event. Its data are the argument, `event` has the rest; so the method can be called, too. That it
   * returns is the acknowledgement: the sum is durable together with it, and the event is not delivered again. If it
   * fails the event is a dead letter; if this process is killed the event comes again, and what was written is not
   * there.
   */
  async add({ turnToken, payload, event }) {
    const number = payload?.body ? parse<unknown>(payload) : undefined;
    if (typeof number !== "number") throw new Failure("not_a_number", `${JSON.stringify(number)} is no number`);
    const total = (await read(turnToken)) + number;
    const change = { change: { $case: "set" as const, value: { key: KEY, value: json(total) } } };
    await host.request({ $case: "actorStateApply", value: { turnToken, changes: [change] } });
    console.error(`${event?.position ?? "a call"}: ${number} makes ${total}`);
    return total;
  },

  async total({ turnToken }) {
    return read(turnToken);
  },
};

async function read(turnToken: string): Promise<number> {
  const answer = await host.request({
    $case: "actorStateGet",
    value: ActorStateServiceGetRequest.fromPartial({ turnToken, keys: [KEY] }),
  });
  if (answer.$case !== "actorStateGet") throw new Error("the answer does not fit the request");
  const known = answer.value.entries[KEY];
  return known ? parse<number>(known) : 0;
}

/** There may be such a subscription: then it goes on where it is. It outlives this process. */
async function subscribe(topic: string): Promise<void> {
  const subscription = Subscription.fromPartial({
    name: "sums",
    topic,
    target: { kind: { $case: "actor", value: { type: "Sum" } } },
    instanceAttribute: "partitionkey",
    method: "add",
    filter: { dialect: { $case: "exact", value: { attributes: { type: "number" } } } },
  });
  await host.request({ $case: "subscribe", value: { subscription } });
}

const topic = process.argv[2];
if (!topic) {
  console.error("usage: sums.js TOPIC");
  process.exit(1);
}
const hello = {
  sdk: "sums-js/0.1.0",
  actorTypes: [{ name: "Sum", methods: [{ name: "add" }, { name: "total", shared: true }] }],
};
const host = new Host(
  hello,
  async (invocation) => {
    const method = Object.hasOwn(METHODS, invocation.method) ? METHODS[invocation.method] : undefined;
    if (!method) {
      const known = Object.keys(METHODS).join(", ");
      throw new Failure("kar.UNKNOWN_METHOD", `Sum has no method '${invocation.method}'; it has: ${known}`);
    }
    return json(await method(invocation));
  },
  () => subscribe(topic),
);
