// An event stream, printed as it comes.

import { createRequire } from "node:module";

const { EnvHttpProxyAgent, fetch } = createRequire(process.env.MODULES)("undici");
const dispatcher = new EnvHttpProxyAgent();
const headers = { authorization: "Bearer locum_main" };
const answer = await fetch("https://api.test/events/4", { headers, dispatcher });
let rest = "";
for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
  rest += piece;
  for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
    console.log(`event: ${rest.slice("data: ".length, end)}`);
  }
}
await dispatcher.close();
