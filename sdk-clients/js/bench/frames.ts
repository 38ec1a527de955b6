// A stream on which whatever is ready goes in one message: the frames of one turn of the event loop.

import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";

import {
  type ComponentFrame,
  ComponentServiceClient,
  type ConnectRequest,
  type ConnectResponse,
  Hello,
  type SidecarFrame,
} from "../gen/kar/v1/component.js";
import { address, describe, fromGrpc, metadata, options, plaintext } from "../samples/hello/sidecar.js";

/** Frames in one message: enough to share its cost, few enough that the other side can begin early. */
const FRAMES_PER_MESSAGE_MAX = 16;

export type Up = NonNullable<ComponentFrame["frame"]>;
export type Down = SidecarFrame["frame"];

export class Frames {
  #client = new ComponentServiceClient(address(), plaintext, options);
  #stream: ClientDuplexStream<ConnectRequest, ConnectResponse> = this.#client.connect(metadata());
  #ready: ComponentFrame[] = [];

  constructor(services: string[], take: (frame: Down) => void) {
    this.#stream.on("data", ({ frames }: ConnectResponse) => frames.forEach(({ frame }) => take(frame)));
    this.#stream.on("error", (error: ServiceError) => {
      console.error(describe(fromGrpc(error)));
      process.exit(1);
    });
    this.#stream.on("end", () => process.exit(0));
    const hosted = services.map((name) => ({ name }));
    this.send({ $case: "hello", value: Hello.fromPartial({ protocolVersion: 1, sdk: "bench-js", services: hosted }) });
  }

  send(frame: Up): void {
    // Runs when the present message has been taken: its answers travel together.
    if (this.#ready.length === 0) queueMicrotask(() => this.#flush());
    this.#ready.push({ frame });
    if (this.#ready.length >= FRAMES_PER_MESSAGE_MAX) this.#flush();
  }

  close(): void {
    this.#stream.end();
  }

  #flush(): void {
    if (this.#ready.length === 0) return;
    this.#stream.write({ frames: this.#ready });
    this.#ready = [];
  }
}
