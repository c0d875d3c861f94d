// Fetches each URL of standard input, and says of each whether it came whole. Where a client takes a
// cut answer for whole, a test fails.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { EnvHttpProxyAgent, fetch } = createRequire(process.env.MODULES)("undici");
const dispatcher = new EnvHttpProxyAgent();
const headers = { Authorization: "Bearer locum_main" };
for (const url of readFileSync(0, "utf8").trim().split("\n")) {
  try {
    const answer = await fetch(url, { headers, dispatcher });
    const body = await answer.arrayBuffer();
    console.log(answer.status === 200 ? "whole" : `status ${answer.status}`, body.byteLength);
  } catch (error) {
    console.log("error", String(error.cause ?? error).slice(0, 100));
  }
}
await dispatcher.close();
