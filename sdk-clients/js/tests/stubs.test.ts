// What the generated code must be like for programs to rely on it, and the one piece of hand-written code that several
// programs share.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { ErrorInfo } from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";
import { ComponentFrame, Request, SidecarFrame, Welcome } from "../gen/kar/v1/component.js";
import { address, describe, fromGrpc, fromStatus, metadata } from "../samples/hello/sidecar.js";

const UINT64_MAX = 2n ** 64n - 1n;

const REFUSED = Status.fromPartial({
  code: status.RESOURCE_EXHAUSTED,
  message: "send less",
  details: [
    { typeUrl: "type.googleapis.com/google.rpc.Help", value: Buffer.alloc(0) },
    {
      typeUrl: "type.googleapis.com/google.rpc.ErrorInfo",
      value: Buffer.from(
        ErrorInfo.encode({ reason: "LIMIT_REACHED", domain: "kar", metadata: { limit: "depth_max" } }).finish(),
      ),
    },
  ],
});

test("64-bit numbers are exact", () => {
  const welcome = Welcome.decode(Welcome.encode(Welcome.fromPartial({ incarnation: UINT64_MAX })).finish());
  assert.equal(welcome.incarnation, UINT64_MAX);
  const request = Request.decode(Request.encode(Request.fromPartial({ id: 2n ** 53n + 1n })).finish());
  assert.equal(request.id, 2n ** 53n + 1n);
});

test("a frame of a later version is one without a kind", () => {
  const later = Buffer.from([0x9a, 0x06, 0x00]);
  assert.equal(SidecarFrame.decode(later).frame, undefined);
});

test("a oneof is one value with its case", () => {
  const bytes = ComponentFrame.encode({ frame: { $case: "credit", value: { count: 3 } } }).finish();
  assert.deepEqual(ComponentFrame.decode(bytes).frame, { $case: "credit", value: { count: 3 } });
});

test("an error on the stream is read with its reason", () => {
  const error = fromStatus(REFUSED);
  assert.deepEqual(error, {
    code: status.RESOURCE_EXHAUSTED,
    reason: "LIMIT_REACHED",
    message: "send less",
    metadata: { limit: "depth_max" },
  });
  assert.equal(describe(error), "LIMIT_REACHED · send less · limit=depth_max");
});

test("an error of a unary call is read with the same reason", () => {
  const trailers = new Metadata();
  trailers.set("grpc-status-details-bin", Buffer.from(Status.encode(REFUSED).finish()));
  const error = Object.assign(new Error("8"), { code: 8, details: "send less", metadata: trailers }) as ServiceError;
  assert.deepEqual(fromGrpc(error), fromStatus(REFUSED));
});

test("an error that is not KAR's has no reason", () => {
  const error = Object.assign(new Error("14"), { code: 14, details: "away", metadata: new Metadata() }) as ServiceError;
  assert.deepEqual(fromGrpc(error), { code: 14, reason: "", message: "away", metadata: {} });
});

test("the environment names the sidecar", () => {
  assert.equal(address({ KAR_SOCKET: "/x/kar.sock", KAR_GRPC_PORT: "9" }), "unix:/x/kar.sock");
  assert.equal(address({ KAR_SOCKET: "", KAR_GRPC_PORT: "9" }), "127.0.0.1:9");
  assert.throws(() => address({}), /kar run/);
  assert.deepEqual(metadata({ KAR_API_TOKEN: "s" }).get("authorization"), ["Bearer s"]);
  assert.deepEqual(metadata({}).get("authorization"), []);
});
