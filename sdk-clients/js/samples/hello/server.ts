// Hosts the service `greeter` on the component's stream, without an SDK: what is here is what an SDK has to do.
//
//   kar run --app hello --service greeter -- node sdk-clients/js/dist/samples/hello/server.js
//   kar call --app hello greeter hello '{"name":"Alan"}'
//
// The guide to the frames is sdk-clients/README.md.

import type { ServiceError } from "@grpc/grpc-js";

import {
  ComponentFrame,
  ComponentServiceClient,
  type ConnectResponse,
  Hello,
  type InvocationFrame,
  type SidecarFrame,
  type TurnOutcome,
} from "../../gen/kar/v1/component.js";
import { address, describe, fromGrpc, metadata, options, plaintext, PROTOCOL_VERSION } from "./sidecar.js";

/** Turns at once. It bounds this program's memory: the sidecar holds the rest, and starts none of them elsewhere. */
const TURNS_MAX = 256;

/** How long leaving may take: running turns, and the hand-over to other hosts. */
const DRAIN_TIMEOUT_MS = 15_000;

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

const client = new ComponentServiceClient(address(), plaintext, options);
const stream = client.connect(metadata());
/** Turns that run, by token. Each entry gets exactly one `turn_result`. */
const turns = new Map<string, AbortController>();
let leaving = false;
let drained = false;

function send(frame: NonNullable<ComponentFrame["frame"]>): void {
  // What it returns tells of back pressure. There is none to heed here: `TURNS_MAX` bounds what can wait to be written.
  stream.write({ frames: [{ frame }] });
}

/** Takes what the sidecar says. Kinds of frames that this version does not know need no answer. */
function take(frame: SidecarFrame["frame"]): void {
  switch (frame?.$case) {
    case "welcome":
      console.error(`greeter hosts on node ${frame.value.node}, incarnation ${frame.value.incarnation}`);
      break;
    case "invocation":
      void run(frame.value);
      break;
    case "cancelTurn":
      // Its code stops, and then its result goes out. A turn that has answered already is not in the table.
      turns.get(frame.value.turnToken)?.abort();
      break;
    case "drained":
      drained = true;
      closeIfDone();
      break;
  }
}

/** One turn: exactly one result, after its code has ended. */
async function run(invocation: InvocationFrame): Promise<void> {
  const { turnToken } = invocation;
  const turn = new AbortController();
  turns.set(turnToken, turn);
  const result = await outcome(invocation, turn.signal);
  turns.delete(turnToken);
  send({ $case: "turnResult", value: { turnToken, result } });
  closeIfDone();
}

async function outcome(invocation: InvocationFrame, signal: AbortSignal): Promise<TurnOutcome["result"]> {
  try {
    const method = Object.hasOwn(METHODS, invocation.method) ? METHODS[invocation.method] : undefined;
    if (!method) return failed("unknown_method", `greeter has no method '${invocation.method}'`);
    const greeting = await method(argument(invocation), signal);
    const data = Buffer.from(JSON.stringify(greeting));
    return { $case: "payload", value: { body: { $case: "data", value: data }, contentType: "application/json" } };
  } catch (error) {
    // A turn that was told to stop has no result of its own: another attempt has taken over.
    if (signal.aborted) return { $case: "cancelled", value: {} };
    const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
    return failed(name, message, stack);
  }
}

function argument({ payload }: InvocationFrame): Argument {
  const bytes = payload?.body?.$case === "data" ? payload.body.value.toString() : "";
  const value = JSON.parse(bytes || "{}") as Partial<Argument> | null;
  if (typeof value?.name !== "string") throw new TypeError('the argument must be like {"name":"Alan"}');
  return { ...value, name: value.name };
}

/** An error of the application: it goes back to the caller and is not retried. */
function failed(code: string, message: string, detail = ""): TurnOutcome["result"] {
  return { $case: "error", value: { code, message, detail, payload: undefined, retryable: false } };
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

/** Leaves in order: no new turns come, those that run are finished, everything is handed over, then we close. */
function leave(): void {
  if (leaving) return;
  leaving = true;
  send({ $case: "goodbye", value: {} });
  setTimeout(() => end(`not handed over after ${DRAIN_TIMEOUT_MS} ms`), DRAIN_TIMEOUT_MS).unref();
}

function closeIfDone(): void {
  if (drained && turns.size === 0) stream.end();
}

/** The stream is over, and with it every turn: nothing that they might still return counts. */
function end(problem?: string): void {
  turns.forEach((turn) => turn.abort());
  if (problem) console.error(`greeter ends: ${problem}`);
  process.exit(problem ? 1 : 0);
}

process.on("SIGTERM", leave);
process.on("SIGINT", leave);
stream.on("data", (message: ConnectResponse) => message.frames.forEach(({ frame }) => take(frame)));
// An SDK would connect again here, with the same hello.
stream.on("error", (error: ServiceError) => end(describe(fromGrpc(error))));
stream.on("end", () => end(drained || leaving ? undefined : "the sidecar closed the stream"));
send({
  $case: "hello",
  value: Hello.fromPartial({
    protocolVersion: PROTOCOL_VERSION,
    sdk: "hello-js/0.1.0",
    services: [{ name: "greeter", methods: Object.keys(METHODS).map((name) => ({ name })) }],
    invocationCredits: TURNS_MAX,
  }),
});
