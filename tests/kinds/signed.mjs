// Whether GitHub's own library takes a signature: the key, the body and the signature by the environment.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const home = process.env.MODULES + "/node_modules/@octokit/webhooks-methods/";
const entry = JSON.parse(readFileSync(home + "package.json", "utf8")).exports["."].node.import;
const { verify } = await import(pathToFileURL(home + entry).href);
const { KEY, BODY, SIGNATURE } = process.env;
console.log(JSON.stringify(await verify(KEY, BODY, SIGNATURE)));
