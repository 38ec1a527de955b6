// Calls `greeter.hello` twice: by a unary RPC, which is all that a program needs that calls now and then, and as a
// request on the component's stream, which costs the sidecar a tenth and is what an SDK does.
//
//   kar run --app hello -- node sdk-clients/js/dist/samples/hello/client.js Alan

import type { ServiceError } from "@grpc/grpc-js";

import { type ApplicationError, Payload } from "../../gen/kar/v1/common.js";
import { ComponentServiceClient, ConnectRequest, type ConnectResponse } from "../../gen/kar/v1/component.js";
import { InvocationServiceClient, InvokeRequest, type InvokeResponse } from "../../gen/kar/v1/invocation.js";
import { address, describe, fromGrpc, fromStatus, metadata, options, plaintext, PROTOCOL_VERSION } from "./sidecar.js";

/** How long this program waits. The call itself goes on: it was accepted, so it is carried out. */
const PATIENCE_MS = 60_000;

const deadline = () => ({ deadline: Date.now() + PATIENCE_MS });

function request(name: string): InvokeRequest {
  const data = Buffer.from(JSON.stringify({ name }));
  const payload = { body: { $case: "data" as const, value: data }, contentType: "application/json" };
  return InvokeRequest.create({ service: "greeter", method: "hello", payload });
}

/** What the method returned; throws what the application failed with. */
function greeting(response: InvokeResponse): string {
  switch (response.result?.$case) {
    case "payload":
      return text(response.result.value);
    case "error":
      throw failure(response.result.value);
    default:
      throw new Error("the response has no result that this version knows");
  }
}

function text(payload: Payload): string {
  if (payload.body?.$case !== "data") throw new Error("a request in bytes is answered in bytes");
  return JSON.parse(payload.body.value.toString()) as string;
}

function failure(error: ApplicationError): Error {
  return new Error(`the method failed: ${error.code}: ${error.message}`);
}

function unary(name: string): Promise<InvokeResponse> {
  const client = new InvocationServiceClient(address(), plaintext, options);
  return new Promise<InvokeResponse>((resolve, reject) => {
    client.invoke(request(name), metadata(), deadline(), (error, response) => {
      if (error) reject(new Error(describe(fromGrpc(error))));
      else resolve(response);
    });
  }).finally(() => client.close());
}

/** The same on a stream that hosts nothing. One call; an SDK keeps the stream, and a table of requests by id. */
function onStream(name: string): Promise<InvokeResponse> {
  const client = new ComponentServiceClient(address(), plaintext, options);
  const stream = client.connect(metadata(), deadline());
  const send = (frame: ConnectRequest["frames"][number]["frame"]) => {
    stream.write({ frames: [{ frame }] });
  };
  return new Promise<InvokeResponse>((resolve, reject) => {
    stream.on("data", (message: ConnectResponse) => {
      for (const { frame } of message.frames) {
        if (frame?.$case === "welcome") {
          // It says how many requests may be under way (`requestCredits`); one is always fine.
          const operation = { $case: "invoke" as const, value: request(name) };
          send({ $case: "request", value: { id: 1n, operation } });
        } else if (frame?.$case === "response" && frame.value.id === 1n) {
          const { result } = frame.value;
          if (result?.$case === "invoke") resolve(result.value);
          else if (result?.$case === "status") reject(new Error(describe(fromStatus(result.value))));
          else reject(new Error("the answer does not fit the request"));
        }
      }
    });
    stream.on("error", (error: ServiceError) => reject(new Error(describe(fromGrpc(error)))));
    stream.on("end", () => reject(new Error("the sidecar closed the stream")));
    const hello = { protocolVersion: PROTOCOL_VERSION, sdk: "hello-js/0.1.0" };
    send(ConnectRequest.fromPartial({ frames: [{ frame: { $case: "hello", value: hello } }] }).frames[0]!.frame);
  }).finally(() => {
    // Nobody is hosted here, so there is nothing to hand over: closing this side is enough.
    stream.end();
    client.close();
  });
}

const name = process.argv[2] ?? "world";
try {
  console.log(greeting(await unary(name)));
  console.log(greeting(await onStream(name)));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
