// A host on the component's stream, without an SDK: what is here is what an SDK has to do. The guide to the frames is
// sdk-clients/README.md.

import type { ServiceError } from "@grpc/grpc-js";

import type { ApplicationError, Payload } from "../../gen/kar/v1/common.js";
import {
  type ComponentFrame,
  ComponentServiceClient,
  type ConnectResponse,
  Hello,
  type InvocationFrame,
  type Request,
  type Response,
  type SidecarFrame,
  type TurnOutcome,
} from "../../gen/kar/v1/component.js";
import {
  address,
  describe,
  fromGrpc,
  fromStatus,
  metadata,
  options,
  plaintext,
  PROTOCOL_VERSION,
  Refusal,
} from "./sidecar.js";

export type Operation = NonNullable<Request["operation"]>;
export type Answer = NonNullable<Response["result"]>;

/** What a turn runs. A turn that was told to stop is aborted by its signal. */
export type Code = (invocation: InvocationFrame, signal: AbortSignal) => Promise<Payload>;

/** Turns at once. It bounds this program's memory: the sidecar holds the rest, and starts none of them elsewhere. */
const TURNS_MAX = 256;

/** How long leaving may take: running turns, and the hand-over to other hosts. */
const DRAIN_TIMEOUT_MS = 15_000;

/** An error of the application: its name is the code that the caller gets. */
export class Failure extends Error {
  constructor(code: string, message: string) {
    super(message);
    this.name = code;
  }
}

export class Host {
  readonly #stream = new ComponentServiceClient(address(), plaintext, options).connect(metadata());
  /** Turns that run, by token. Each entry gets exactly one `turn_result`. */
  readonly #turns = new Map<string, AbortController>();
  /** What was asked for and not answered yet, by number. */
  readonly #waiting = new Map<bigint, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  readonly #code: Code;
  #requests = 0n;
  #drained = false;
  #leaving = false;

  /** Begins to host. `begun` is called when the sidecar has welcomed it; the process ends with the stream. */
  constructor(hello: Parameters<typeof Hello.fromPartial>[0], code: Code, begun: () => Promise<void> = async () => {}) {
    this.#code = code;
    this.#stream.on("data", (message: ConnectResponse) => {
      for (const { frame } of message.frames) {
        if (frame?.$case === "welcome") {
          console.error(`hosts on node ${frame.value.node}, incarnation ${frame.value.incarnation}`);
          begun().catch((error: Error) => this.#end(error.message));
        } else {
          this.#take(frame);
        }
      }
    });
    // An SDK would connect again here; `kar run --restart` starts the program again.
    this.#stream.on("error", (error: ServiceError) => this.#end(describe(fromGrpc(error))));
    this.#stream.on("end", () => this.#end(this.#leaving ? undefined : "the sidecar closed the stream"));
    process.on("SIGTERM", () => this.#leave());
    process.on("SIGINT", () => this.#leave());
    const value = Hello.fromPartial({ protocolVersion: PROTOCOL_VERSION, invocationCredits: TURNS_MAX, ...hello });
    this.#send({ $case: "hello", value });
  }

  /** Asks the sidecar for something. Part of a turn if it carries the turn's token. */
  request(operation: Operation): Promise<Answer> {
    const id = ++this.#requests;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#send({ $case: "request", value: { id, operation } });
    });
  }

  #send(frame: NonNullable<ComponentFrame["frame"]>): void {
    // What it returns tells of back pressure. There is none to heed here: `TURNS_MAX` bounds what can wait.
    this.#stream.write({ frames: [{ frame }] });
  }

  /** Takes what the sidecar says. Kinds of frames that this version does not know need no answer. */
  #take(frame: SidecarFrame["frame"]): void {
    switch (frame?.$case) {
      case "invocation":
        void this.#run(frame.value);
        break;
      case "response":
        this.#answered(frame.value);
        break;
      case "cancelTurn":
        // Its code stops, and then its result goes out. A turn that has answered already is not in the table.
        this.#turns.get(frame.value.turnToken)?.abort();
        break;
      case "drained":
        this.#drained = true;
        this.#closeIfDone();
        break;
    }
  }

  #answered({ id, result }: Response): void {
    const waiter = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (result?.$case === "status") waiter?.reject(new Refusal(fromStatus(result.value)));
    else if (result) waiter?.resolve(result);
    else waiter?.reject(new Error("an answer that this version does not know"));
  }

  /** One turn: exactly one result, after its code has ended. */
  async #run(invocation: InvocationFrame): Promise<void> {
    const { turnToken } = invocation;
    const turn = new AbortController();
    this.#turns.set(turnToken, turn);
    const result = await this.#outcome(invocation, turn.signal);
    this.#turns.delete(turnToken);
    this.#send({ $case: "turnResult", value: { turnToken, result } });
    this.#closeIfDone();
  }

  async #outcome(invocation: InvocationFrame, signal: AbortSignal): Promise<TurnOutcome["result"]> {
    try {
      return { $case: "payload", value: await this.#code(invocation, signal) };
    } catch (error) {
      // A turn that was told to stop has no result of its own: another attempt has taken over.
      if (signal.aborted) return { $case: "cancelled", value: {} };
      return { $case: "error", value: failure(error) };
    }
  }

  /** Leaves in order: no new turns come, those that run are finished, everything is handed over, then it closes. */
  #leave(): void {
    if (this.#leaving) return;
    this.#leaving = true;
    this.#send({ $case: "goodbye", value: {} });
    setTimeout(() => this.#end(`not handed over after ${DRAIN_TIMEOUT_MS} ms`), DRAIN_TIMEOUT_MS).unref();
  }

  #closeIfDone(): void {
    if (this.#drained && this.#turns.size === 0) this.#stream.end();
  }

  /** The stream is over, and with it every turn: nothing that they might still return counts. */
  #end(problem?: string): void {
    this.#turns.forEach((turn) => turn.abort());
    if (problem) console.error(`the host ends: ${problem}`);
    process.exit(problem ? 1 : 0);
  }
}

/** An error of the application: it goes back to the caller and is not retried. */
export function failure(error: unknown): ApplicationError {
  // What cannot fail: to tell more is up to code of the error's own, and anything may have been thrown.
  const bare = { code: "Error", message: "", detail: "", payload: undefined, retryable: false };
  try {
    const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
    return { ...bare, code: String(name), message: String(message), detail: String(stack ?? "") };
  } catch {
    return bare;
  }
}

/** A value as JSON. */
export function json(value: unknown): Payload {
  return { body: { $case: "data", value: Buffer.from(JSON.stringify(value)) }, contentType: "application/json" };
}

/** JSON as a value. */
export function parse<T>(payload: Payload | undefined): T {
  if (payload?.body?.$case !== "data") throw new Error("a request in bytes is answered in bytes");
  return JSON.parse(payload.body.value.toString()) as T;
}
