// Downloads that break off, read piece by piece.

import { createRequire } from "node:module";

const { EnvHttpProxyAgent, request } = createRequire(process.env.MODULES)("undici");
const dispatcher = new EnvHttpProxyAgent();
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
