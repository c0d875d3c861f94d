// undici's agents, told of the proxy and reading it from the environment, for https and for http.

import { subscribe } from "node:diagnostics_channel";
import { createRequire } from "node:module";

const { EnvHttpProxyAgent, ProxyAgent, fetch, request } = createRequire(process.env.MODULES)("undici");
const uri = process.env.HTTPS_PROXY;
const authorization = "Bearer locum_main";

let tunnels = 0;
let protocol;
subscribe("undici:proxy:connected", () => tunnels++);
subscribe("undici:client:connected", ({ socket }) => (protocol = socket.alpnProtocol));

// What a refusal is called, or the word that the origin was sent.
async function word(body) {
  const text = await body.text();
  const type = /"type":"urn:locum:problem:([^"]+)"/.exec(text);
  if (type) return type[1];
  return text.includes('"body":"hello"') ? "hello" : text;
}

async function tried(name, dispatcher, url, init) {
  tunnels = 0;
  const answer = await fetch(url, { ...init, dispatcher });
  const over = name.endsWith("HTTP/2") ? `, ${protocol}` : "";
  console.log(`${name}: ${answer.status} tunnels ${tunnels} ${await word(answer)}${over}`);
  await dispatcher.close();
}

const post = { method: "POST", body: "hello", headers: { authorization } };
const proxy = (proxyTunnel) => new ProxyAgent({ uri, proxyTunnel });

await tried("https by ProxyAgent", new ProxyAgent(uri), "https://api.test/echo?ProxyAgent", post);
await tried("https by EnvHttpProxyAgent", new EnvHttpProxyAgent(), "https://api.test/echo?EnvHttpProxyAgent", post);
{
  tunnels = 0;
  const dispatcher = new ProxyAgent(uri);
  const { statusCode, body } = await request("https://api.test/echo?request", { ...post, dispatcher });
  console.log(`https by request(): ${statusCode} tunnels ${tunnels} ${await word(body)}`);
  await dispatcher.close();
}
const allowH2 = true;
await tried("https by ProxyAgent over HTTP/2", new ProxyAgent({ uri, allowH2, requestTls: { allowH2 } }), "https://api.test/echo?h2", post);
await tried("http in a tunnel", proxy(true), "http://plain.test/open/tunnel");
await tried("http by absolute URL", proxy(false), "http://plain.test/open/absolute");
await tried("http by EnvHttpProxyAgent", new EnvHttpProxyAgent(), "http://plain.test/open/environment");
const referring = { headers: { authorization } };
await tried("http with a reference in a tunnel", proxy(true), "http://plain.test/open/never", referring);
await tried("http with a reference by absolute URL", proxy(false), "http://plain.test/open/never", referring);
const unknown = { headers: { authorization: "Bearer locum_none" } };
await tried("refused in a tunnel", new ProxyAgent(uri), "https://api.test/never", unknown);
