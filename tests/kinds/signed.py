"""What providers' own libraries make of a signature that Locum made, and clients that sign with placeholders.

`signed.py send EXCHANGE REFERENCE` asks an exchange for something private, as a program with placeholders
would. `signed.py check` reads a request as it arrived, and the real key, from standard input, and prints
whether the library takes it.
"""

import json
import sys

import ccxt
import stripe
from slack_sdk.signature import Clock, SignatureVerifier

PRIVATE = {
    "okx": lambda x: x.private_post_trade_order({"instId": "BTC-USDT", "side": "buy"}),
    "binance": lambda x: x.private_get_account({"omitZeroBalances": "true"}),
    "gate": lambda x: x.private_spot_get_accounts({"currency": "BTC"}),
}


def send(name, reference):
    keys = {"apiKey": reference, "secret": reference, "password": reference}
    exchange = getattr(ccxt, name)({**keys, "requests_trust_env": True, "enableRateLimit": False})
    exchange.requests_trust_env = True
    exchange.session.trust_env = True
    try:
        PRIVATE[name](exchange)
    except ccxt.BaseError as error:
        # The origin of the test is no exchange. What it was sent is looked at there.
        print(type(error).__name__)


class Frozen(Clock):
    def __init__(self, at):
        self.at = at

    def now(self):
        return self.at


def slack(seen, key):
    fields = seen["headers"]
    verifier = SignatureVerifier(key, clock=Frozen(int(fields["x-slack-request-timestamp"])))
    return verifier.is_valid_request(seen["body"], fields)


def stripe_webhook(seen, key):
    try:
        stripe.WebhookSignature.verify_header(seen["body"], seen["headers"]["stripe-signature"], key, 300)
        return True
    except stripe.SignatureVerificationError:
        return False


def exchange(name, seen, keys):
    """Signs the same with the real key at the same moment, and compares all that goes out."""
    fields = seen["headers"]
    own = getattr(ccxt, name)({"apiKey": keys["id"], "secret": keys["key"], "password": keys.get("passphrase")})
    path, _, query = seen["target"].partition("?")
    if name == "okx":
        own.iso8601 = lambda _: fields["ok-access-timestamp"]
        made = own.sign("trade/order", "private", "POST", json.loads(seen["body"]))
        wanted = {k.lower(): v for k, v in made["headers"].items() if k.startswith("OK-ACCESS")}
        return made["body"] == seen["body"] and all(fields.get(k) == v for k, v in wanted.items())
    if name == "gate":
        own.milliseconds = lambda: int(fields["timestamp"]) * 1000
        own.nonce = own.milliseconds
        made = own.sign("accounts", ["private", "spot"], "GET", {"currency": "BTC"})
        wanted = {k.lower(): v for k, v in made["headers"].items() if k in ("KEY", "Timestamp", "SIGN")}
        return all(fields.get(k) == str(v) for k, v in wanted.items())
    if name == "binance":
        unsigned, _, signature = query.rpartition("&signature=")
        return (
            fields["x-mbx-apikey"] == keys["id"]
            and own.hmac(own.encode(unsigned), own.encode(keys["key"]), __import__("hashlib").sha256) == signature
        )
    raise KeyError(name)


def main():
    if sys.argv[1] == "send":
        return send(*sys.argv[2:])
    asked = json.load(sys.stdin)
    name, seen, keys = asked["as"], asked["seen"], asked["keys"]
    if name == "slack":
        good = slack(seen, keys["key"])
    elif name == "stripe":
        good = stripe_webhook(seen, keys["key"])
    else:
        good = exchange(name, seen, keys)
    print(json.dumps(bool(good)))


main()
