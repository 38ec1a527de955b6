// How any program finds its sidecar, and how it reads the sidecar's errors. An SDK has these two files' worth of code
// before it does anything for its users.

import { credentials, Metadata, type ClientOptions, type ServiceError } from "@grpc/grpc-js";

import { ErrorInfo } from "../../gen/google/rpc/error_details.js";
import { Status } from "../../gen/google/rpc/status.js";

/** Newest version of the stream's protocol that these samples speak. */
export const PROTOCOL_VERSION = 1;

/** Longest message accepted from the sidecar, bytes: 16 frames of 4 MiB. The library's own bound is 4 MiB. */
const RECEIVED_BYTES_MAX = 64 << 20;

/** Where the sidecar listens: what `kar run` puts into the environment of the programs it starts. */
export function address(env: NodeJS.ProcessEnv = process.env): string {
  if (env["KAR_SOCKET"]) return `unix:${env["KAR_SOCKET"]}`;
  if (env["KAR_GRPC_PORT"]) return `127.0.0.1:${env["KAR_GRPC_PORT"]}`;
  throw new Error("no sidecar to talk to: run this program under `kar run`, or set KAR_SOCKET");
}

/** The socket is private to its user, so there is no TLS. */
export const plaintext = credentials.createInsecure();

export const options: ClientOptions = {
  "grpc.max_receive_message_length": RECEIVED_BYTES_MAX,
  // grpc-js would use the socket's path, percent-encoded.
  "grpc.default_authority": "localhost",
};

/** Goes with every RPC: the bearer token, if the sidecar wants one. */
export function metadata(env: NodeJS.ProcessEnv = process.env): Metadata {
  const metadata = new Metadata();
  if (env["KAR_API_TOKEN"]) metadata.set("authorization", `Bearer ${env["KAR_API_TOKEN"]}`);
  return metadata;
}

/** An error of the sidecar, as opposed to one of the application. */
export interface KarError {
  /** gRPC status code. */
  code: number;
  /** A name of `kar.v1.ErrorReason` without its prefix; empty if the error is not KAR's. */
  reason: string;
  message: string;
  /** What to look at or to change: `field`, `limit`, `target`, … */
  metadata: { [key: string]: string };
}

/** Why the sidecar did not carry a request out, to be thrown. */
export class Refusal extends Error {
  constructor(readonly error: KarError) {
    super(describe(error));
  }
}

/** Reads the status that a response on the stream carries. */
export function fromStatus(status: Status): KarError {
  const found = { code: status.code, message: status.message };
  for (const detail of status.details) {
    if (!detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) continue;
    const info = ErrorInfo.decode(detail.value);
    if (info.domain === "kar") return { ...found, reason: info.reason, metadata: info.metadata };
  }
  return { ...found, reason: "", metadata: {} };
}

/** Reads the status that ended an RPC: the same message travels in its trailers. */
export function fromGrpc(error: ServiceError): KarError {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const status = Buffer.isBuffer(details) ? Status.decode(details) : Status.create();
  return fromStatus({ ...status, code: error.code, message: error.details });
}

/** One line for people. */
export function describe(error: KarError): string {
  const about = Object.entries(error.metadata).map(([key, value]) => `${key}=${value}`);
  return [error.reason || `gRPC code ${error.code}`, error.message, ...about].join(" · ");
}
