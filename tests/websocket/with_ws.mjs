// Node's `ws` with a proxy agent, and undici's WebSocket, with the key that the environment has.

import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(process.env.MODULES);
const { WebSocket } = require("ws");
const { HttpsProxyAgent } = require("https-proxy-agent");
const undici = require("undici");

const headers = { Authorization: `Bearer ${process.env.OPENAI_API_KEY}` };
const url = process.argv[2];

/** Resolves with the next event of this kind. */
const next = (socket, kind) =>
  new Promise((resolve, reject) => {
    socket.addEventListener(kind, resolve, { once: true });
    socket.addEventListener("error", (event) => reject(event.error ?? new Error(event.message)), { once: true });
  });

async function converse(socket, compressed) {
  socket.binaryType = "arraybuffer";
  await next(socket, "open");
  console.log("agreed:", socket.extensions);
  if (socket.extensions.includes("permessage-deflate") !== compressed) throw new Error(socket.extensions);
  for (const message of ["hello", "long ".repeat(20000), randomBytes(2_000_000)]) {
    const answer = next(socket, "message");
    socket.send(message);
    const { data } = await answer;
    const same = typeof message === "string" ? data === message : Buffer.from(data).equals(message);
    if (!same) throw new Error("another message came back");
  }
  const closed = next(socket, "close");
  socket.close(4000, "enough");
  const { code, reason } = await closed;
  if (code !== 4000 || reason !== "enough") throw new Error(`${code} ${reason}`);
}

for (const perMessageDeflate of [true, false]) {
  const agent = new HttpsProxyAgent(process.env.HTTPS_PROXY);
  const socket = new WebSocket(url, { headers, agent, perMessageDeflate });
  socket.on("open", () => socket.ping("are you there"));
  const pong = new Promise((resolve) => socket.on("pong", (data) => resolve(String(data))));
  await converse(socket, perMessageDeflate);
  if ((await pong) !== "are you there") throw new Error("no pong");
}
const dispatcher = new undici.ProxyAgent(process.env.HTTPS_PROXY);
await converse(new undici.WebSocket(url, { headers, dispatcher }), true);
await dispatcher.close();

const agent = new HttpsProxyAgent(process.env.HTTPS_PROXY);
const socket = new WebSocket(`${url}/show`, { headers, agent, perMessageDeflate: false });
const { data } = await next(socket, "message");
console.log(data);
socket.close();
await next(socket, "close");
console.log(JSON.stringify(process.env));
