// Downloads that break off, read piece by piece.

import { subscribe } from "node:diagnostics_channel";
import { createRequire } from "node:module";

const { EnvHttpProxyAgent, request } = createRequire(process.env.MODULES)("undici");
const allowH2 = process.argv[2] === "h2";
const dispatcher = new EnvHttpProxyAgent({ allowH2, requestTls: { allowH2 } });
subscribe("undici:client:connected", ({ socket }) => {
  if (socket.alpnProtocol) console.log(`spoken: ${socket.alpnProtocol}`);
});
const headers = { authorization: "Bearer locum_main" };
for (const path of ["/abort", "/abort-long", "/abort-chunked", "/bytes/100000"]) {
  let length = 0;
  try {
    const { statusCode, body } = await request(`https://api.test${path}`, { headers, dispatcher });
    for await (const piece of body) length += piece.length;
    console.log(`${path}: ${statusCode === 200 ? `whole, ${length} bytes` : statusCode}`);
  } catch (error) {
    console.log(`${path}: error after ${length} bytes: ${error.code}`);
  }
}
await dispatcher.close();
