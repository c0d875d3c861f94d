// The same for Node: each SDK makes a client of a stand-in and begins a call, with nothing to connect
// to. Reads the stand-ins from standard input, and prints what came of each.
import dns from 'node:dns';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const REACHED = 'the call wanted the network';
const nowhere = (host, options, callback) => (callback ?? options)(new Error(REACHED));
dns.lookup = nowhere;
dns.promises.lookup = async () => { throw new Error(REACHED); };
const warned = [];
for (const how of ['warn', 'error']) console[how] = (...words) => warned.push(words.join(' '));

const load = createRequire(process.env.MODULES);
const calls = {
  discord: async (key) => {
    const { Client } = load('discord.js');
    const client = new Client({ intents: [], rest: { retries: 0 } });
    try { await client.login(key); } finally { await client.destroy(); }
  },
  stripe: (key) => new (load('stripe'))(key, { maxNetworkRetries: 0 }).customers.list(),
  twilio: (key) => load('twilio')('AC' + '0'.repeat(32), key).messages.list({ limit: 1 }),
  sendgrid: (key) => {
    const mail = load('@sendgrid/mail');
    mail.setApiKey(key);
    return mail.send({ to: 'a@a.test', from: 'b@b.test', subject: 's', text: 't' });
  },
  slack: (key) => {
    const { WebClient } = load('@slack/web-api');
    return new WebClient(key, { logLevel: 'error', retryConfig: { retries: 0 } }).auth.test();
  },
  telegram: (key) => new (load('telegraf').Telegraf)(key).telegram.getMe(),
};

const said = (error) => {
  const all = [];
  for (let one = error; one && !all.includes(one); one = one.cause ?? one.original ?? one.detail) all.push(one);
  return all.map((one) => `${one?.name}: ${one?.message ?? one}`).join(' < ');
};

async function attempt(call, key) {
  warned.length = 0;
  try {
    await call(key);
  } catch (error) {
    const text = said(error);
    // A warning about the shape is a check, too.
    if (warned.length > 0) return `warned: ${warned.join(' ')}`;
    return text.includes(REACHED) ? 'reached' : text;
  }
  return 'it did not want the network';
}

const keys = JSON.parse(readFileSync(0, 'utf8'));
const results = {};
for (const [provider, call] of Object.entries(calls)) {
  results[provider] = await attempt(call, keys[provider]);
  results[`${provider} nonsense`] = await attempt(call, 'no key');
}
process.stdout.write(JSON.stringify({ results, providers: Object.keys(calls) }), () => process.exit(0));
