// Node's own `fetch` and `https`, of a version that reads the proxy from the environment.

import http from "node:http";
import https from "node:https";

const headers = { authorization: "Bearer locum_main" };
const post = { method: "POST", body: "hello", headers };
const word = (text) => (text.includes('"body":"hello"') ? "hello" : text);

const secure = await fetch("https://api.test/echo?fetch", post);
console.log(`https: ${secure.status} ${word(await secure.text())}`);
const plain = await fetch("http://plain.test/open/fetch");
console.log(`http: ${plain.status} ${word(await plain.text())}`);

const ask = (module, url, options, body) =>
  new Promise((resolve, reject) => {
    const request = module.request(url, options, async (answer) => {
      let text = "";
      for await (const piece of answer) text += piece;
      resolve(`${answer.statusCode} ${word(text)}`);
    });
    request.on("error", reject).end(body);
  });
const options = { method: "POST", headers };
console.log(`https module: ${await ask(https, "https://api.test/echo?module", options, "hello")}`);
console.log(`http module: ${await ask(http, "http://plain.test/open/module", {})}`);
