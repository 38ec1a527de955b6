// What `cargo xtask bench --languages` calls: the service `bench`, which returns what it is given.

import { Frames } from "./frames.js";

const frames = new Frames(["bench"], (frame) => {
  if (frame?.$case === "invocation") {
    const { turnToken, payload } = frame.value;
    const value = payload ?? { body: undefined, contentType: "" };
    frames.send({ $case: "turnResult", value: { turnToken, result: { $case: "payload", value } } });
  } else if (frame?.$case === "drained") {
    frames.close();
  }
});
process.on("SIGTERM", () => frames.send({ $case: "goodbye", value: {} }));
