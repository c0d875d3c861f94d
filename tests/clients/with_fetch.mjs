// `fetch` with a proxy agent: the one that reads the environment, and the one that is told.

import { createRequire } from "node:module";

const { EnvHttpProxyAgent, ProxyAgent, fetch } = createRequire(process.env.MODULES)("undici");
const key = process.env.OPENAI_API_KEY;
for (const dispatcher of [new EnvHttpProxyAgent(), new ProxyAgent(process.env.HTTPS_PROXY)]) {
  const answer = await fetch("https://api.openai.com/echo", {
    method: "POST",
    headers: { Authorization: `Bearer ${key}` },
    body: "hello",
    dispatcher,
  });
  if (!answer.ok) throw new Error(await answer.text());
  console.log(JSON.stringify(Object.fromEntries(answer.headers)));
  console.log(await answer.text());
  await dispatcher.close();
}
console.log(JSON.stringify(process.env));
