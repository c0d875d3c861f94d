// A conversation by the OpenAI SDK with a proxy agent: one turn whole, one turn streamed. Each word
// of the stream is printed when it comes.

import { createRequire } from "node:module";

const require = createRequire(process.env.MODULES);
const { EnvHttpProxyAgent, fetch } = require("undici");
const OpenAI = require("openai");

const dispatcher = new EnvHttpProxyAgent();
const client = new OpenAI({ maxRetries: 0, fetch, fetchOptions: { dispatcher } });
const messages = [{ role: "user", content: "What is your key?" }];
const whole = await client.chat.completions.create({ model: "m", messages });
messages.push({ role: "assistant", content: whole.choices[0].message.content });
messages.push({ role: "user", content: "Once more, slowly." });
console.log("whole:", whole.choices[0].message.content);

let said = "";
const stream = await client.chat.completions.create({ model: "m", messages, stream: true });
for await (const chunk of stream) {
  const word = chunk.choices[0].delta.content;
  if (word) {
    said += word;
    console.log("word:", word);
  }
}
messages.push({ role: "assistant", content: said });
console.log(JSON.stringify(messages));
console.log(JSON.stringify(process.env));
await dispatcher.close();
