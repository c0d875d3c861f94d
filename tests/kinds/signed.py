"""What providers' own libraries make of a signature that Locum made, and clients that sign with placeholders.

`signed.py send EXCHANGE REFERENCE` asks an exchange for something private, as a program with placeholders
would. `signed.py check` reads a request as it arrived, and the real key, from standard input, and prints
whether the library takes it.
"""

import base64
import datetime
import json
import os
import sys
import urllib.parse

import ccxt
import stripe
from slack_sdk.signature import Clock, SignatureVerifier
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

PRIVATE = {
    "okx": lambda x: x.private_post_trade_order({"instId": "BTC-USDT", "side": "buy"}),
    "binance": lambda x: x.private_get_account({"omitZeroBalances": "true"}),
    "gate": lambda x: x.private_spot_get_accounts({"currency": "BTC"}),
    "kraken": lambda x: x.private_post_addorder({"pair": "XBTUSD", "type": "buy", "volume": "1.25"}),
}


def send(name, reference):
    if name == "tencent":
        return tencent(reference, reference)
    # What a program has for its secret has to be base64 for Kraken's.
    secret = base64.b64encode(reference.encode()).decode() if name == "kraken" else reference
    keys = {"apiKey": reference, "secret": secret, "password": reference}
    exchange = getattr(ccxt, name)({**keys, "requests_trust_env": True, "enableRateLimit": False})
    exchange.requests_trust_env = True
    exchange.session.trust_env = True
    try:
        PRIVATE[name](exchange)
    except (ccxt.BaseError, KeyError) as error:
        # The origin of the test is no exchange. What it was sent is looked at there.
        print(type(error).__name__)


def tencent(key_id, key):
    """Asks Tencent Cloud for something private."""
    # It looks for roots in its own bundle alone, unless it is told of another.
    http = HttpProfile()
    http.certification = os.environ["REQUESTS_CA_BUNDLE"]
    keys = Credential(key_id, key)
    client = CommonClient("cvm", "2017-03-12", keys, "ap-guangzhou", profile=ClientProfile(httpProfile=http))
    try:
        client.call_json("DescribeInstances", {"Limit": 1, "Filters": [{"Name": "zone", "Values": ["ü"]}]})
    except (TencentCloudSDKException, ValueError) as error:
        print(type(error).__name__)


def tencent_takes(seen, keys):
    """What the SDK itself writes for the same request with the real key at the same moment."""
    fields = seen["headers"]
    client = CommonClient("cvm", "2017-03-12", Credential(keys["id"], keys["key"]), "ap-guangzhou")
    request = RequestInternal(fields["host"], "POST", seen["target"], {
        "Content-Type": fields["content-type"],
        "Host": fields["host"],
        "X-TC-Timestamp": fields["x-tc-timestamp"],
    }, seen["body"])
    day = datetime.datetime.fromtimestamp(int(fields["x-tc-timestamp"]), datetime.timezone.utc)
    day = day.strftime("%Y-%m-%d")
    signature = client._get_tc3_signature({}, request, day, "cvm", keys["key"])
    return fields["authorization"] == (
        f"TC3-HMAC-SHA256 Credential={keys['id']}/{day}/cvm/tc3_request, "
        f"SignedHeaders=content-type;host, Signature={signature}"
    )


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
    if name == "kraken":
        sent = dict(urllib.parse.parse_qsl(seen["body"]))
        own.nonce = lambda: sent["nonce"]
        made = own.sign("AddOrder", "private", "POST", {k: v for k, v in sent.items() if k != "nonce"})
        wanted = {k.lower(): v for k, v in made["headers"].items() if k.startswith("API-")}
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
    elif name == "tencent":
        good = tencent_takes(seen, keys)
    else:
        good = exchange(name, seen, keys)
    print(json.dumps(bool(good)))


main()
