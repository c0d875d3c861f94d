// An authorization server (oauth2-mock-server) and an API that takes its tokens, each over TLS on a
// free port. Commands come as lines of JSON; each is answered with one line.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { randomUUID, verify } from 'node:crypto';
import readline from 'node:readline';

const require = createRequire(process.env.MODULES);
const { OAuth2Issuer, OAuth2Service } = await import(require.resolve('oauth2-mock-server'));

const issuer = new OAuth2Issuer();
await issuer.keys.generate('RS256');
const service = new OAuth2Service(issuer);

const settings = { mode: 'ok', life: 3600, rotate: false, date: 0, refresh: null, before: null, leeway: false, delay: 0, key: null, device: null, go: 'https://as.test/go' };
const issued = new Map(); // token -> when it runs out, in milliseconds
const seen = { token: 0, requests: [], api: 0, expired: 0, unknown: 0, refreshed: [] };

service.on('beforeTokenSigning', (token) => { token.payload.jti = randomUUID(); });
service.on('beforeResponse', (response, request) => {
  const body = request.body;
  seen.requests.push({ body, authorization: request.headers.authorization ?? null });
  const refuse = (status, error) => { response.statusCode = status; response.body = { error }; };
  if (settings.mode === 'error400') return refuse(400, 'invalid_request');
  if (settings.mode === 'invalid_grant') return refuse(400, 'invalid_grant');
  if (body.grant_type === 'refresh_token' && settings.refresh !== null
      && body.refresh_token !== settings.refresh
      && !(settings.leeway && body.refresh_token === settings.before)) return refuse(400, 'invalid_grant');
  response.body.expires_in = settings.life;
  if (body.grant_type === 'authorization_code') {
    settings.refresh = 'rt-' + randomUUID();
    seen.refreshed.push(settings.refresh);
    response.body.refresh_token = settings.refresh;
    return;
  }
  delete response.body.refresh_token;
  if (settings.rotate && body.grant_type === 'refresh_token') {
    settings.before = body.refresh_token;
    settings.refresh = 'rt-' + randomUUID();
    seen.refreshed.push(settings.refresh);
    response.body.refresh_token = settings.refresh;
  }
  issued.set(response.body.access_token, Date.now() + settings.life * 1000);
});

// RFC 7523, which the mock does not know: a token for an assertion whose signature is right.
function assertion(request, response) {
  let text = '';
  request.on('data', (piece) => { text += piece; });
  request.on('end', () => {
    const body = Object.fromEntries(new URLSearchParams(text));
    seen.requests.push({ body, authorization: request.headers.authorization ?? null });
    const [head, claims, signature] = body.assertion.split('.');
    const key = { key: settings.key, dsaEncoding: 'ieee-p1363' };
    const good = verify('sha256', Buffer.from(`${head}.${claims}`), key, Buffer.from(signature, 'base64url'));
    const token = randomUUID();
    if (good) issued.set(token, Date.now() + 60000);
    response.writeHead(good ? 200 : 400, { 'content-type': 'application/json' });
    response.end(JSON.stringify(good ? { access_token: token, expires_in: 60 } : { error: 'invalid_grant' }));
  });
}

// GitHub's way to a token of an installation, for an app whose key we know.
function installation(request, response) {
  let text = '';
  request.on('data', (piece) => { text += piece; });
  request.on('end', () => {
    const [head, claims, signature] = request.headers.authorization.replace('Bearer ', '').split('.');
    const key = { key: settings.key, dsaEncoding: 'ieee-p1363' };
    const good = verify('sha256', Buffer.from(`${head}.${claims}`), key, Buffer.from(signature, 'base64url'));
    seen.requests.push({ body: JSON.parse(text), claims: JSON.parse(Buffer.from(claims, 'base64url')), accept: request.headers.accept });
    const token = 'ghs_' + randomUUID().replaceAll('-', '');
    if (good) issued.set(token, Date.now() + 3600000);
    response.writeHead(good ? 201 : 401, { 'content-type': 'application/json' });
    response.end(JSON.stringify(good ? { token, expires_at: 'in an hour' } : { message: 'Bad credentials' }));
  });
}

function tokens(request, response) {
  if (request.url.startsWith('/app/installations/7/access_tokens')) {
    seen.token += 1;
    return installation(request, response);
  }
  if (request.url.startsWith('/token')) seen.token += 1;
  if (settings.date !== 0) response.setHeader('Date', new Date(Date.now() + settings.date * 1000).toUTCString());
  const answer = (status, type, text) => { response.writeHead(status, { 'content-type': type }); response.end(text); };
  if (request.url.startsWith('/device')) {
    return answer(200, 'application/json', JSON.stringify({
      device_code: 'dc-1', user_code: 'WDJB-MJHT', verification_uri: settings.go, interval: 1, expires_in: 60 }));
  }
  if (settings.device !== null) {
    request.resume();
    const next = settings.device.shift() ?? 'expired_token';
    const done = next === 'token';
    return answer(done ? 200 : 400, 'application/json', JSON.stringify(
      done ? { access_token: 'at', refresh_token: settings.refresh } : { error: next }));
  }
  switch (settings.mode) {
    case 'error500': return answer(500, 'text/plain', 'a fault');
    case 'garbage': return answer(200, 'application/json', '{"access_token": ');
    case 'html': return answer(200, 'text/html', '<html>sign in</html>');
    case 'cut': request.socket.destroy(); return undefined;
    case 'hang': return undefined;
    case 'assertion': return assertion(request, response);
    default: setTimeout(() => service.requestHandler(request, response), settings.delay);
  }
}

function api(request, response) {
  seen.api += 1;
  const token = (request.headers.authorization ?? '').replace(/^Bearer /i, '');
  const end = issued.get(token);
  request.resume();
  request.on('end', () => {
    if (end === undefined) seen.unknown += 1;
    else if (end < Date.now()) seen.expired += 1;
    const good = end !== undefined && end >= Date.now();
    response.writeHead(good ? 200 : 401, { 'content-type': 'application/json' });
    const earlier = [...issued.keys()].slice(-2);
    response.end(JSON.stringify({ good, token, all: request.url.startsWith('/all') ? earlier : [] }));
  });
}

const identity = (name) => {
  const read = (file) => readFileSync(`${process.env.IDENTITIES}/${name}/${file}.pem`);
  return { cert: read('cert'), key: read('key') };
};
const listen = (name, handler) => new Promise((resolve) => {
  const server = https.createServer(identity(name), handler);
  server.listen(0, '127.0.0.1', () => resolve(server.address().port));
});

const ports = { as: await listen('as', tokens), api: await listen('api', api) };
issuer.url = `https://as.test`;
console.log(JSON.stringify(ports));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  Object.assign(settings, command.set ?? {});
  if (command.forget) issued.clear();
  console.log(JSON.stringify({ ...seen, issued: [...issued.keys()], settings }));
}
process.exit(0);
