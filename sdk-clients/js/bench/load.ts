// The load client of `cargo xtask bench --languages`: so many clients, each of which makes the next call when it has
// the answer to the last one. Prints `begin` after the warm-up, and then what it found.

import { parseArgs } from "node:util";

import { DeliveryMode } from "../gen/kar/v1/common.js";
import { InvokeRequest } from "../gen/kar/v1/invocation.js";
import { describe, fromStatus } from "../samples/hello/sidecar.js";
import { Frames } from "./frames.js";

const PAYLOAD_BYTES = 1024;
const WARM_UP_MS = 700;

const text = { type: "string" } as const;
const { values } = parseArgs({
  options: { target: text, clients: text, seconds: text, "every-ms": text },
});
const clients = Number(values.clients);
const deliveryMode =
  values.target === "direct" ? DeliveryMode.DELIVERY_MODE_DIRECT : DeliveryMode.DELIVERY_MODE_DURABLE;
const value = InvokeRequest.fromPartial({
  service: "bench",
  method: "echo",
  payload: { body: { $case: "data", value: Buffer.alloc(PAYLOAD_BYTES, 7) }, contentType: "application/octet-stream" },
  deliveryMode,
});

/** When each client's call was made. */
const made: bigint[] = [];
const taken: number[] = [];
let measuring = false;
let over = false;
let underWay = clients;

const frames = new Frames([], (frame) => {
  if (frame?.$case === "welcome") {
    for (let id = 0; id < clients; id++) call(id);
    setTimeout(begin, WARM_UP_MS);
  } else if (frame?.$case === "response") {
    const { id, result } = frame.value;
    if (result?.$case === "status") throw new Error(describe(fromStatus(result.value)));
    if (result?.$case !== "invoke" || result.value.result?.$case !== "payload") throw new Error("no result");
    if (measuring) taken.push(Number(process.hrtime.bigint() - made[Number(id)]!) / 1_000);
    if (!over) call(Number(id));
    else if (--underWay === 0) frames.close();
  }
});

function call(id: number): void {
  made[id] = process.hrtime.bigint();
  frames.send({ $case: "request", value: { id: BigInt(id), operation: { $case: "invoke", value } } });
}

function begin(): void {
  measuring = true;
  const start = process.hrtime.bigint();
  console.log("begin");
  setTimeout(() => {
    measuring = false;
    over = true;
    const seconds = Number(process.hrtime.bigint() - start) / 1e9;
    taken.sort((a, b) => a - b);
    const at = (quantile: number) => taken[Math.min(Math.floor(quantile * taken.length), taken.length - 1)] ?? 0;
    const [p50_us, p99_us, p999_us, max_us] = [at(0.5), at(0.99), at(0.999), at(1)];
    console.log(JSON.stringify({ calls: taken.length, seconds, p50_us, p99_us, p999_us, max_us }));
  }, Number(values.seconds) * 1_000);
}
