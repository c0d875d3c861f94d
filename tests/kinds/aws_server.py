"""AWS as moto plays it, with signatures checked, over TLS on a free port.

What moto does not check is checked here, by code that has nothing from Locum: presigned URLs, and the
signature of each chunk of a body. The hosts are told apart by SNI, as each has a certificate of its own.
"""

import base64
import hashlib
import hmac
import io
import json
import os
import ssl
import sys
import threading
import urllib.parse

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "100000"

import boto3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto import settings
from moto.sts.models import sts_backends
from moto.core.authorization import ActionAuthenticatorMixin
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

REGION = "us-east-1"
seen = {"targets": [], "tokens": [], "presigned": 0, "chunks": 0, "trailers": 0, "ids": [], "ranges": 0, "bad": []}
secrets = {}
# What becomes of calls of Secrets Manager and KMS: ok, throttle, error, hang.
mode = {"is": "ok", "over": threading.Event()}


def secret_of(key_id):
    for backends in sts_backends.values():
        for role in backends["aws"].assumed_roles:
            if role.access_key_id == key_id:
                return role.secret_access_key, role.session_token
    return secrets.get(key_id, ""), None


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signing_key(secret, date, region, service):
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = digest(key, part)
    return key


def quote(text, safe=""):
    return urllib.parse.quote(text, safe=safe + "-_.~")


def presigned(environ):
    """Whether the URL's signature is right, as the documentation of S3 computes it."""
    pairs = urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
    query = dict(pairs)
    key_id, date, region, service, _ = query["X-Amz-Credential"].split("/")
    listed = sorted((quote(k), quote(v)) for k, v in pairs if k != "X-Amz-Signature")
    names = query["X-Amz-SignedHeaders"].split(";")
    fields = "".join(f"{n}:{environ['HTTP_' + n.upper().replace('-', '_')].strip()}\n" for n in names)
    path = quote(environ["PATH_INFO"].encode("latin1").decode(), "/")
    canonical = "\n".join([
        environ["REQUEST_METHOD"], path, "&".join(f"{k}={v}" for k, v in listed), fields,
        ";".join(names), "UNSIGNED-PAYLOAD"])
    scope = f"{date}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope,
                      hashlib.sha256(canonical.encode()).hexdigest()])
    key = signing_key(secret_of(key_id)[0], date, region, service)
    return hmac.compare_digest(digest(key, text).hex(), query["X-Amz-Signature"]), key_id


def chunked(environ, body):
    """Whether each chunk of the body, and its trailers, have the right signature."""
    authorization = environ["HTTP_AUTHORIZATION"]
    scope = authorization.split("Credential=")[1].split(",")[0]
    before = authorization.split("Signature=")[1]
    key_id, date, region, service, _ = scope.split("/")
    scope = scope.split("/", 1)[1]
    key = signing_key(secret_of(key_id)[0], date, region, service)
    time = environ["HTTP_X_AMZ_DATE"]
    empty = hashlib.sha256(b"").hexdigest()
    rest = io.BytesIO(body)
    while True:
        size, signature = rest.readline().rstrip(b"\r\n").split(b";chunk-signature=")
        data = rest.read(int(size, 16))
        text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", time, scope, before, empty,
                          hashlib.sha256(data).hexdigest()])
        expected = digest(key, text).hex()
        if expected != signature.decode():
            return False
        before = expected
        seen["chunks"] += 1
        if not data:
            break
        assert rest.read(2) == b"\r\n"
    trailers = ""
    for line in rest:
        name, _, value = line.rstrip(b"\r\n").decode().partition(":")
        if name == "x-amz-trailer-signature":
            text = "\n".join(["AWS4-HMAC-SHA256-TRAILER", time, scope, before,
                              hashlib.sha256(trailers.encode()).hexdigest()])
            seen["trailers"] += 1
            return digest(key, text).hex() == value
        if name:
            trailers += f"{name}:{value}\n"
    return trailers == ""


class Checked:
    def __init__(self, app):
        self.app = app

    def refuse(self, start, why):
        seen["bad"].append(why)
        start("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SignatureDoesNotMatch</Code></Error>"]

    def fail(self, start, status, kind):
        """As the JSON services of AWS say it."""
        start(status, [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps({"__type": kind, "message": "Rate exceeded"}).encode()]

    def __call__(self, environ, start):
        if "HTTP_RANGE" in environ:
            seen["ranges"] += 1
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if "Credential=" in authorization:
            seen["ids"].append(authorization.split("Credential=")[1].split("/")[0])
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target and target.split(".")[1] in ("GetSecretValue", "Decrypt", "Encrypt"):
            seen["targets"].append([target, seen["ids"][-1] if authorization else None])
            if mode["is"] == "throttle":
                return self.fail(start, "400 Bad Request", "ThrottlingException")
            if mode["is"] == "error":
                return self.fail(start, "500 Internal Server Error", "InternalServiceError")
            if mode["is"] == "hang":
                mode["over"].wait(60)
        if environ["HTTP_HOST"].startswith("sts.") and not authorization:
            self.exchange(environ)
        if "X-Amz-Signature=" in environ["QUERY_STRING"]:
            good, key_id = presigned(environ)
            seen["ids"].append(key_id)
            if not good:
                return self.refuse(start, "presigned")
            seen["presigned"] += 1
            pairs = urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
            pairs = [(k, v) for k, v in pairs if not k.startswith("X-Amz-")]
            environ["QUERY_STRING"] = urllib.parse.urlencode(pairs)
            target = quote(environ["PATH_INFO"].encode("latin1").decode(), "/")
            environ["RAW_URI"] = environ["REQUEST_URI"] = target
            self.sign(environ, key_id)
        if environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING-AWS4"):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if not chunked(environ, body):
                return self.refuse(start, "chunks")
            environ["wsgi.input"] = io.BytesIO(body)
        return self.app(environ, start)

    def exchange(self, environ):
        """moto asks for a signature of AssumeRoleWithWebIdentity, where AWS asks for none."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        asked = urllib.parse.parse_qs(body.decode())
        seen["tokens"].append(asked.get("WebIdentityToken", [""])[0])
        if asked["Action"] != ["AssumeRoleWithWebIdentity"]:
            return
        key_id = next(iter(secrets))
        kind = environ["CONTENT_TYPE"]
        request = AWSRequest(method="POST", url=f"https://{environ['HTTP_HOST']}/", data=body,
                             headers={"Host": environ["HTTP_HOST"], "Content-Type": kind})
        SigV4Auth(Credentials(key_id, secrets[key_id]), "sts", REGION).add_auth(request)
        for name, value in request.headers.items():
            if name != "Content-Type":
                environ["HTTP_" + name.upper().replace("-", "_")] = value

    def sign(self, environ, key_id):
        """moto knows no presigned URLs where it checks signatures."""
        url = f"https://{environ['HTTP_HOST']}{environ['RAW_URI']}"
        if environ["QUERY_STRING"]:
            url += "?" + environ["QUERY_STRING"]
        request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, headers={"Host": environ["HTTP_HOST"]})
        request.context["payload_signing_enabled"] = False
        S3SigV4Auth(Credentials(key_id, *secret_of(key_id)), "s3", REGION).add_auth(request)
        for name, value in request.headers.items():
            environ["HTTP_" + name.upper().replace("-", "_")] = value


def certificates(directory):
    contexts = {}
    for host in os.listdir(directory):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/{host}/cert.pem", f"{directory}/{host}/key.pem")
        contexts[host] = context
    first = next(iter(contexts.values()))

    def chosen(socket, name, _):
        socket.context = contexts.get(name, first)

    first.sni_callback = chosen
    return first


def user(iam, name, effect):
    iam.create_user(UserName=name)
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(allow))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    secrets[key["AccessKeyId"]] = key["SecretAccessKey"]
    return {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


def obey(command, port, keys):
    """Sets the mode, or calls a method of boto3 as the user who may do all."""
    if "mode" in command:
        mode["is"] = command["mode"]
        mode["over"].set()
        mode["over"] = threading.Event()
    if "call" not in command:
        return seen
    service, method = command["call"]
    client = boto3.client(service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{port}",
                          aws_access_key_id=keys["id"], aws_secret_access_key=keys["secret"])
    before = mode["is"]
    mode["is"] = "ok"
    try:
        arguments = command["with"]
        if method == "decrypt_text":
            # Without what the call that wrapped it said it is for.
            method, text = "decrypt", arguments["CiphertextBlob"]
            arguments = {"CiphertextBlob": base64.b64decode(text)}
        said = getattr(client, method)(**arguments)
        said.pop("ResponseMetadata", None)
        return said
    except Exception as error:
        return {"error": str(error)}
    finally:
        mode["is"] = before


def main():
    app = Checked(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=certificates(sys.argv[1]))
    plain = make_server("127.0.0.1", 0, app, threaded=True)
    for one in (server, plain):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    iam = boto3.client("iam", region_name=REGION, endpoint_url=f"http://127.0.0.1:{plain.port}",
                       aws_access_key_id="AKIAMAKER", aws_secret_access_key="maker")
    keys = user(iam, "worker", "Allow")
    stranger = user(iam, "stranger", "Deny")
    trust = {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
    role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="reader", PolicyName="all", PolicyDocument=json.dumps(allow))
    ActionAuthenticatorMixin.request_count = 0
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    seen["ids"].clear()
    stranger = stranger["id"] + ":" + stranger["secret"]
    print(json.dumps({"port": server.port, "role": role["Arn"], "stranger": stranger, **keys}), flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line), plain.port, keys), default=str), flush=True)


main()
