// A component that misbehaves in one way, named by its argument, and says what it got for it. The cases and what is
// expected stand in sdk-clients/conformance/nonsense.txt; `cargo xtask test` runs all of them.

import { Client, type ClientDuplexStream, type ServiceError, status } from "@grpc/grpc-js";

import {
  ComponentServiceService,
  ConnectRequest,
  type ConnectResponse,
  type InvocationFrame,
  type Welcome,
} from "../gen/kar/v1/component.js";
import {
  address,
  fromGrpc,
  fromStatus,
  type KarError,
  metadata,
  options,
  plaintext,
} from "../samples/hello/sidecar.js";

type Frame = NonNullable<ConnectRequest["frames"][number]["frame"]>;
type Behaviour = {
  /** What it does at first instead of saying hello. */
  first?: () => void;
  /** It registers the service `nonsense`. */
  hosts?: boolean;
  welcomed?: (welcome: Welcome) => void;
  invoked?: (invocation: InvocationFrame) => void;
};

const MIB = 1 << 20;
/** `ConnectRequest{frames: [ComponentFrame{99: ""}]}` on the wire. */
const UNKNOWN_FRAME = Buffer.from([0x0a, 0x03, 0x9a, 0x06, 0x00]);
const GARBAGE = Buffer.alloc(40, 0xff);

const name = process.argv[2] ?? "";
const env = name === "wrong-api-token" ? { ...process.env, KAR_API_TOKEN: "nonsense" } : process.env;
const client = new Client(address(), plaintext, options);
// Bytes instead of messages, so that what no stub could send can be sent too.
const stream: ClientDuplexStream<Buffer, ConnectResponse> = client.makeBidiStreamRequest(
  ComponentServiceService.connect.path,
  (bytes: Buffer) => bytes,
  ComponentServiceService.connect.responseDeserialize,
  metadata(env),
);

function send(...frames: Frame[]): void {
  const message = ConnectRequest.fromPartial({ frames: frames.map((frame) => ({ frame })) });
  stream.write(Buffer.from(ConnectRequest.encode(message).finish()));
}

function hello(): void {
  const services = BEHAVIOURS[name]?.hosts ? [{ name: "nonsense", methods: [] }] : [];
  send({
    $case: "hello",
    value: {
      protocolVersion: 1,
      sdk: "nonsense-js",
      services,
      actorTypes: [],
      concurrency: 0,
      strict: false,
      invocationCredits: 0,
    },
  });
}

/** A call that stays under way: nobody hosts that service. */
function call(id: bigint, payloadBytes = 0): Frame {
  const payload = { body: { $case: "data" as const, value: Buffer.alloc(payloadBytes) }, contentType: "" };
  const value = {
    service: "nobody",
    method: "m",
    payload,
    deliveryMode: 0,
    affinityKey: "",
    options: undefined,
    turnToken: "",
    stepKey: "",
  };
  return { $case: "request", value: { id, operation: { $case: "invoke", value } } };
}

function finish(turnToken: string): Frame {
  const value = { body: { $case: "data" as const, value: Buffer.from("1") }, contentType: "application/json" };
  return { $case: "turnResult", value: { turnToken, result: { $case: "payload", value } } };
}

const BEHAVIOURS: { [name: string]: Behaviour } = {
  silence: { first: () => undefined },
  "no-hello": { first: () => send({ $case: "credit", value: { count: 1 } }) },
  "two-hellos": { welcomed: hello },
  "unknown-frame": { welcomed: () => stream.write(UNKNOWN_FRAME) },
  garbage: { welcomed: () => stream.write(GARBAGE) },
  "no-operation": { welcomed: () => send({ $case: "request", value: { id: 1n, operation: undefined } }) },
  "credit-overrun": {
    welcomed: ({ requestCredits }) => {
      for (let id = 0; id <= requestCredits; id++) send(call(BigInt(id)));
    },
  },
  "credit-of-nothing": { welcomed: () => send({ $case: "credit", value: { count: 0 } }) },
  "wrong-api-token": {},
  "made-up-token": { hosts: true, welcomed: () => send(finish("made/up")) },
  "result-of-a-client": { welcomed: () => send(finish("made/up")) },
  "second-result": {
    hosts: true,
    invoked: ({ turnToken }) => send(finish(turnToken), finish(turnToken)),
  },
  "ended-turn": {
    hosts: true,
    invoked: ({ turnToken }) => {
      const operation = { $case: "flush" as const, value: { turnToken } };
      send(finish(turnToken), { $case: "request", value: { id: 1n, operation } });
    },
  },
  "large-payload": { welcomed: () => send(call(1n, 5 * MIB)) },
  "large-message": { welcomed: () => send(call(1n, 9 * MIB)) },
};

function report(what: string, error: KarError): never {
  console.log(`${what} ${status[error.code]} ${error.reason || "(no reason)"}`);
  console.error(error.message);
  process.exit(0);
}

const behaviour = BEHAVIOURS[name];
if (!behaviour) throw new Error(`no such case: '${name}'`);
stream.on("data", ({ frames }: ConnectResponse) => {
  for (const { frame } of frames) {
    if (frame?.$case === "welcome") behaviour.welcomed?.(frame.value);
    else if (frame?.$case === "invocation") behaviour.invoked?.(frame.value);
    else if (frame?.$case === "response" && frame.value.result?.$case === "status") {
      report("answered", fromStatus(frame.value.result.value));
    }
  }
});
stream.on("error", (error: ServiceError) => report("ended", fromGrpc(error)));
stream.on("end", () => {
  // A status that is an error comes right after it; without one nothing does.
  stream.on("status", ({ code }) => {
    if (code === status.OK) report("ended", { code, reason: "", message: "without a word", metadata: {} });
  });
});
(behaviour.first ?? hello)();
