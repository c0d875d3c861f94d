// An OpenID Connect issuer that does as it is told: `node issuer.mjs MODULES CERT KEY CA`. Prints where it
// is, and where it takes orders.
import { createServer } from "node:http";
import { request } from "node:https";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, cert, key, ca] = process.argv.slice(2);
const found = createRequire(modules).resolve("oauth2-mock-server");
const { OAuth2Server } = await import(pathToFileURL(found));

const server = new OAuth2Server(key, cert);
await server.issuer.keys.generate("RS256");
await server.start(0, "127.0.0.1");
server.issuer.url = "https://issuer.test";
const port = server.address().port;

let next = {};
server.service.on("beforeTokenSigning", (token) => {
  Object.assign(token.payload, next);
});

// Asks the token endpoint as a client would.
function token(claims) {
  next = claims;
  const body = "grant_type=client_credentials&aud=locum";
  const headers = { "content-type": "application/x-www-form-urlencoded", "content-length": body.length };
  const options = {
    host: "127.0.0.1", port, path: "/token", method: "POST", headers,
    ca: readFileSync(ca), servername: "issuer.test",
  };
  return new Promise((resolve, reject) => {
    const asked = request(options, (answer) => {
      let text = "";
      answer.on("data", (part) => { text += part; });
      answer.on("end", () => resolve(JSON.parse(text).access_token));
    });
    asked.on("error", reject);
    asked.end(body);
  });
}

const orders = createServer(async (asked, answer) => {
  const url = new URL(asked.url, "http://orders");
  if (url.pathname === "/token") {
    answer.end(await token(JSON.parse(url.searchParams.get("claims"))));
  } else if (url.pathname === "/rotate") {
    const { kid } = await server.issuer.keys.generate(url.searchParams.get("alg"));
    // The rotator takes turns: the new one is next when each older one has had its turn.
    while (server.issuer.keys.toJSON()[0].kid !== kid) server.issuer.keys.get();
    answer.end(kid);
  } else {
    answer.writeHead(404).end();
  }
});
await new Promise((resolve) => { orders.listen(0, "127.0.0.1", resolve); });
console.log(`issuer ${port}`);
console.log(`orders ${orders.address().port}`);
