// What the sample host says of an error.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApplicationError } from "../gen/kar/v1/common.js";
import { Failure, failure } from "../samples/hello/host.js";

class Untellable extends Error {
  override get message(): string {
    throw new TypeError("cannot be told");
  }
}

/** As it travels. */
function told(error: unknown): ApplicationError {
  return ApplicationError.decode(ApplicationError.encode(failure(error)).finish());
}

test("an error is told with its code, its message and where it came from", () => {
  const { code, message, detail } = told(new Failure("sold_out", "none left"));
  assert.equal(`${code}: ${message}`, "sold_out: none left");
  assert.match(detail, /host\.test/);
  assert.equal(told("what a pity").message, "what a pity");
});

test("what cannot be told is an error all the same", () => {
  for (const error of [new Untellable(), Object.create(null), Symbol("s"), undefined]) {
    assert.equal(told(error).code, "Error");
  }
  const odd = Object.assign(new Error(), { name: 5, message: undefined, stack: {} });
  assert.deepEqual([told(odd).code, told(odd).message], ["5", "undefined"]);
});
