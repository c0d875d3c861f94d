// gRPC by @grpc/grpc-js, which is made of Node's own HTTP/2. It finds proxy and roots in the environment.

import { createRequire } from "node:module";

const grpc = createRequire(process.env.MODULES)("@grpc/grpc-js");
const client = new grpc.Client("grpc.test:443", grpc.credentials.createSsl());
const same = (bytes) => bytes;
const referring = (reference) => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${reference}`);
  return metadata;
};
const path = (method) => `/probe.Probe/${method}`;

const unary = (method, request, reference = "locum_grpc") =>
  new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer));
    const metadata = referring(reference);
    client.makeUnaryRequest(path(method), same, same, Buffer.from(request), metadata, done);
  });

console.log(`unary: ${await unary("Unary", "hello")}`);

const down = client.makeServerStreamRequest(path("ServerStream"), same, same, Buffer.from(""), referring("locum_grpc"));
const numbers = [];
for await (const message of down) {
  numbers.push(message.toString());
  // The server says the next one only after this.
  if (numbers.length < 4) await unary("Next", "");
}
console.log(`server-stream: ${numbers.join(" ")}`);

const both = client.makeBidiStreamRequest(path("Bidirectional"), same, same, referring("locum_grpc"));
const heard = both[Symbol.asyncIterator]();
const words = [];
for (const word of ["0", "s", "sk-"]) {
  both.write(Buffer.from(`ping ${word}`));
  words.push((await heard.next()).value.toString());
}
both.end();
console.log(`bidirectional: ${words.join(" ")}, ${(await heard.next()).done ? "ended" : "went on"}`);

for (const [name, method, reference] of [
  ["error", "Error", "locum_grpc"],
  ["unknown-reference", "Unary", "locum_none"],
]) {
  const error = await unary(method, "", reference).catch((error) => error);
  console.log(`${name}: ${grpc.status[error.code]} ${error.details}`);
}
client.close();
