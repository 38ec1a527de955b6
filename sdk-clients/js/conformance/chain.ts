// A link of a chain of nested calls over several languages: hosts the actor type `ChainJs`. What it has to do stands in
// sdk-clients/README.md; `cargo xtask test` kills it while it does.
//
//   kar run --app chain --actors ChainJs -- node sdk-clients/js/dist/conformance/chain.js

import { appendFileSync } from "node:fs";

import type { ServiceError } from "@grpc/grpc-js";

import type { Payload } from "../gen/kar/v1/common.js";
import {
  ComponentServiceClient,
  ConnectRequest,
  type ConnectResponse,
  type InvocationFrame,
  type Request,
  type Response,
  type SidecarFrame,
  type TurnOutcome,
} from "../gen/kar/v1/component.js";
import {
  address,
  describe,
  fromGrpc,
  fromStatus,
  metadata,
  options,
  plaintext,
  PROTOCOL_VERSION,
} from "../samples/hello/sidecar.js";

type Order = { chain: number; at: number; path: [string, string][]; trail: string[]; milliseconds: number };
type Answer = NonNullable<Response["result"]>;
type Operation = NonNullable<Request["operation"]>;

/** How often running code shows in the journal that it runs. */
const TICK_MS = 5;

const client = new ComponentServiceClient(address(), plaintext, options);
const stream = client.connect(metadata());
const turns = new Map<string, AbortController>();
const waiting = new Map<bigint, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
let requests = 0n;
let attempts = 0;

function send(frame: Parameters<typeof ConnectRequest.fromPartial>[0]["frames"]): void {
  stream.write(ConnectRequest.fromPartial({ frames: frame }));
}

function request(operation: Operation): Promise<Answer> {
  const id = ++requests;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    send([{ frame: { $case: "request", value: { id, operation } } }]);
  });
}

function answered({ id, result }: Response): void {
  const waiter = waiting.get(id);
  waiting.delete(id);
  if (result?.$case === "status") waiter?.reject(new Error(describe(fromStatus(result.value))));
  else if (result) waiter?.resolve(result);
  else waiter?.reject(new Error("an answer that this version does not know"));
}

function json(value: unknown): Payload {
  return { body: { $case: "data", value: Buffer.from(JSON.stringify(value)) }, contentType: "application/json" };
}

function parse<T>(payload: Payload | undefined): T {
  if (payload?.body?.$case !== "data") throw new Error("a request in bytes is answered in bytes");
  return JSON.parse(payload.body.value.toString()) as T;
}

function take(frame: SidecarFrame["frame"]): void {
  switch (frame?.$case) {
    case "invocation":
      void run(frame.value);
      break;
    case "response":
      answered(frame.value);
      break;
    case "cancelTurn":
      turns.get(frame.value.turnToken)?.abort();
      break;
    case "drained":
      stream.end();
      break;
  }
}

async function run(invocation: InvocationFrame): Promise<void> {
  const { turnToken } = invocation;
  const turn = new AbortController();
  turns.set(turnToken, turn);
  const result = await outcome(invocation, turn.signal);
  turns.delete(turnToken);
  send([{ frame: { $case: "turnResult", value: { turnToken, result } } }]);
}

async function outcome(invocation: InvocationFrame, signal: AbortSignal): Promise<TurnOutcome["result"]> {
  try {
    return { $case: "payload", value: json(await link(invocation, signal)) };
  } catch (error) {
    if (signal.aborted) return { $case: "cancelled", value: {} };
    const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
    return {
      $case: "error",
      value: { code: name, message, detail: stack ?? "", payload: undefined, retryable: false },
    };
  }
}

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

/** A durable step: what an earlier attempt recorded, or what is drawn and recorded now. */
async function drawn({ turnToken, recordedSteps }: InvocationFrame, fresh: string): Promise<string> {
  const recorded = recordedSteps["value"];
  if (recorded) return parse<string>(recorded);
  const step = { turnToken, key: "value", payload: json(fresh) };
  const answer = await request({ $case: "recordStep", value: step });
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
  const answer = await request({ $case: "callActor", value: call });
  // A turn that was told to stop goes no further.
  signal.throwIfAborted();
  if (answer.$case !== "callActor") throw new Error("the answer does not fit the request");
  const { result } = answer.value;
  if (result?.$case === "payload") return parse<string[]>(result.value);
  throw new Error(`the next link failed: ${JSON.stringify(result)}`);
}

async function count(key: string, turnToken: string): Promise<void> {
  const get = { turnToken, keys: [key], actor: undefined };
  const answer = await request({ $case: "actorStateGet", value: get });
  if (answer.$case !== "actorStateGet") throw new Error("the answer does not fit the request");
  const known = answer.value.entries[key];
  const value = json((known ? parse<number>(known) : 0) + 1);
  const change = { change: { $case: "set" as const, value: { key, value } } };
  await request({ $case: "actorStateApply", value: { turnToken, changes: [change] } });
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

process.on("SIGTERM", () => send([{ frame: { $case: "goodbye", value: {} } }]));
stream.on("data", (message: ConnectResponse) => message.frames.forEach(({ frame }) => take(frame)));
// An SDK would connect again here; `kar run --restart` starts this program again.
stream.on("error", (error: ServiceError) => {
  console.error(describe(fromGrpc(error)));
  process.exit(1);
});
stream.on("end", () => process.exit(0));
const hello = {
  protocolVersion: PROTOCOL_VERSION,
  sdk: "chain-js/0.1.0",
  actorTypes: [{ name: "ChainJs", methods: [{ name: "link" }] }],
};
send([{ frame: { $case: "hello", value: hello } }]);
