// Publishes to a topic by a unary RPC, and follows one on a consumer's stream, without an SDK.
//
//   kar topic create --app numbers numbers
//   kar run --app numbers -- node sdk-clients/js/dist/samples/events/events.js publish numbers alice 1 2 3
//   kar run --app numbers -- node sdk-clients/js/dist/samples/events/events.js follow numbers audit 3
//
// `follow` prints each event and acknowledges it; the next one of its name goes on there.

import { randomUUID } from "node:crypto";

import type { ServiceError } from "@grpc/grpc-js";

import type { Payload } from "../../gen/kar/v1/common.js";
import {
  ConsumeRequest,
  type ConsumeResponse,
  EventServiceClient,
  PublishBatchRequest,
  type PublishBatchResponse,
} from "../../gen/kar/v1/event.js";
import { address, describe, fromGrpc, metadata, options, plaintext } from "../hello/sidecar.js";

const USAGE = "usage: events.js publish TOPIC KEY NUMBER… | follow TOPIC NAME COUNT";

/** How long publishing is waited for. */
const PATIENCE_MS = 60_000;

/** Events that may be here and not printed yet. */
const AHEAD = 64;

const refused = (error: ServiceError) => new Error(describe(fromGrpc(error)));

/** Publishes numbers with one key, in this order; tells where each is. */
function publish(client: EventServiceClient, topic: string, key: string, numbers: number[]): Promise<string[]> {
  const request = PublishBatchRequest.fromPartial({
    events: numbers.map((number) => {
      const data = Buffer.from(JSON.stringify(number));
      const payload = { body: { $case: "data" as const, value: data }, contentType: "application/json" };
      return { topic, partitionKey: key, event: { type: "number", data: payload } };
    }),
    // Whoever sends the same request again, because the answer got lost, publishes nothing a second time.
    requestId: randomUUID(),
  });
  return new Promise((resolve, reject) => {
    const done = (error: ServiceError | null, response: PublishBatchResponse) => {
      if (error) reject(refused(error));
      else resolve(response.events.map((event) => event.position));
    };
    client.publishBatch(request, metadata(), { deadline: Date.now() + PATIENCE_MS }, done);
  });
}

/** Prints and acknowledges so many events; returns when none of them comes again. */
function follow(client: EventServiceClient, topic: string, name: string, count: number): Promise<void> {
  const stream = client.consume(metadata());
  const say = (request: Parameters<typeof ConsumeRequest.fromPartial>[0]) => {
    stream.write(ConsumeRequest.fromPartial(request));
  };
  let printed = 0;
  const unsure = new Set<string>();
  return new Promise<void>((resolve, reject) => {
    stream.on("data", ({ event, position, acknowledged }: ConsumeResponse) => {
      acknowledged.forEach((position) => unsure.delete(position));
      // More may be on its way than was wanted; what is not acknowledged comes to the next one.
      if (event && printed < count) {
        printed += 1;
        console.log(position, JSON.parse(text(event.data)));
        unsure.add(position);
        // It makes room for another one.
        say({ acknowledged: [position], credits: 1 });
      }
      if (printed === count && unsure.size === 0) resolve();
    });
    // An SDK would open it again here: the sidecar knows where the consumer is.
    stream.on("error", (error: ServiceError) => reject(refused(error)));
    stream.on("end", () => reject(new Error("the sidecar closed the stream")));
    const filter = { dialect: { $case: "exact" as const, value: { attributes: { type: "number" } } } };
    say({ topic, consumer: name, credits: AHEAD, filter, confirm: true });
  }).finally(() => {
    // After this the stream ends with an error of its own, which tells nothing.
    stream.removeAllListeners("error").on("error", () => {});
    stream.cancel();
  });
}

function text(payload: Payload | undefined): string {
  return payload?.body?.$case === "data" ? payload.body.value.toString() : "null";
}

const [what, topic, name, ...numbers] = process.argv.slice(2);
const client = new EventServiceClient(address(), plaintext, options);
try {
  if (what === "publish" && topic && name && numbers.length > 0) {
    (await publish(client, topic, name, numbers.map(Number))).forEach((position) => console.log(position));
  } else if (what === "follow" && topic && name && numbers.length === 1) {
    await follow(client, topic, name, Number(numbers[0]));
  } else {
    throw new Error(USAGE);
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}
