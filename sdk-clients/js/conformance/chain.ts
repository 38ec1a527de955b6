// A link of a chain of nested calls over several languages: hosts the actor type `ChainJs`. What it has to do stands in
// sdk-clients/README.md; `cargo xtask test` kills it while it does.
//
//   kar run --app chain --actors ChainJs -- node sdk-clients/js/dist/conformance/chain.js

import { appendFileSync, existsSync } from "node:fs";

import type { InvocationFrame } from "../gen/kar/v1/component.js";
import { ActorStateServiceGetRequest } from "../gen/kar/v1/state.js";
import { Host, json, parse } from "../samples/hello/host.js";
import { Refusal } from "../samples/hello/sidecar.js";

type Hold = { gate: string; next: string[] };
type Refused = { reason: string; cycle: string };
type Order = { chain: number; at: number; path: [string, string][]; trail: string[]; milliseconds: number };

/** How often running code shows in the journal that it runs. */
const TICK_MS = 5;

let attempts = 0;

/** Draws a value, passes the trail on, and counts in its last segment. */
async function link(invocation: InvocationFrame, signal: AbortSignal): Promise<string[]> {
  const { turnToken } = invocation;
  const order = parse<Order>(invocation.payload);
  const key = `${order.chain}@${order.at}`;
  const attempt = `${process.pid}-${attempts++}`;
  const write = (what: string) => note(what, key, attempt, invocation.attempt);
  write("start");
  const ticker = setInterval(() => write("tick"), TICK_MS);
  try {
    const own = await drawn(invocation, attempt);
    await pause(order.milliseconds, signal);
    const trail = await passedOn(order, [...order.trail, own], turnToken, signal);
    if (trail[order.at] !== own) throw new Error(`${key}: drew ${own}, and the trail says ${trail.join()}`);
    await count(key, turnToken);
    signal.throwIfAborted();
    write("end");
    return trail;
  } finally {
    clearInterval(ticker);
  }
}

/** Waits for a file, and then for another actor; tells why the sidecar refused that. */
async function hold({ payload, turnToken }: InvocationFrame, signal: AbortSignal): Promise<Refused> {
  const { gate, next } = parse<Hold>(payload);
  while (gate && !existsSync(gate)) await pause(TICK_MS, signal);
  const [type, id] = next;
  if (type === undefined || id === undefined) return { reason: "", cycle: "" };
  const nothing = json({ gate: "", next: [] });
  const actor = { type, id };
  const call = { actor, method: "hold", payload: nothing, options: undefined, turnToken, stepKey: "" };
  try {
    await host.request({ $case: "callActor", value: call });
  } catch (refused) {
    if (!(refused instanceof Refusal)) throw refused;
    return { reason: refused.error.reason, cycle: refused.error.metadata["cycle"] ?? "" };
  }
  return { reason: "", cycle: "" };
}

/** A durable step: what an earlier attempt recorded, or what is drawn and recorded now. */
async function drawn({ turnToken, recordedSteps }: InvocationFrame, fresh: string): Promise<string> {
  const recorded = recordedSteps["value"];
  if (recorded) return parse<string>(recorded);
  const step = { turnToken, key: "value", payload: json(fresh) };
  const answer = await host.request({ $case: "recordStep", value: step });
  if (answer.$case !== "recordStep") throw new Error("the answer does not fit the request");
  return parse<string>(answer.value.payload);
}

/** Calls the next place of the path, keyed: the call is made once, whatever becomes of this attempt. */
async function passedOn(
  order: Order,
  trail: string[],
  turnToken: string,
  signal: AbortSignal,
): Promise<string[]> {
  const next = order.path[order.at + 1];
  if (!next) return trail;
  const [type, id] = next;
  const payload = json({ ...order, at: order.at + 1, trail });
  const call = { actor: { type, id }, method: "link", payload, options: undefined, turnToken, stepKey: "next" };
  const answer = await host.request({ $case: "callActor", value: call });
  // A turn that was told to stop goes no further.
  signal.throwIfAborted();
  if (answer.$case !== "callActor") throw new Error("the answer does not fit the request");
  const { result } = answer.value;
  if (result?.$case === "payload") return parse<string[]>(result.value);
  throw new Error(`the next link failed: ${JSON.stringify(result)}`);
}

async function count(key: string, turnToken: string): Promise<void> {
  const get = ActorStateServiceGetRequest.fromPartial({ turnToken, keys: [key] });
  const answer = await host.request({ $case: "actorStateGet", value: get });
  if (answer.$case !== "actorStateGet") throw new Error("the answer does not fit the request");
  const known = answer.value.entries[key];
  const value = json((known ? parse<number>(known) : 0) + 1);
  const change = { change: { $case: "set" as const, value: { key, value } } };
  await host.request({ $case: "actorStateApply", value: { turnToken, changes: [change] } });
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

/** One write in append mode: lines of several processes do not mix. */
function note(what: string, key: string, attempt: string, number: number): void {
  const path = process.env["KAR_TEST_JOURNAL"];
  const nanos = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
  if (path) appendFileSync(path, `${what} ${key} ${attempt} ${number} ${nanos}\n`);
}

const methods = [{ name: "link" }, { name: "hold" }];
const hello = { sdk: "chain-js/0.1.0", actorTypes: [{ name: "ChainJs", methods }] };
const host = new Host(hello, async (invocation, signal) => {
  const run = invocation.method === "hold" ? hold : link;
  return json(await run(invocation, signal));
});
