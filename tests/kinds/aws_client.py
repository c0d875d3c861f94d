"""boto3 with placeholder keys, behind the proxy of its environment. Prints what it saw."""

import datetime
import hashlib
import hmac
import json
import os
import sys
import urllib.error
import urllib.request

import boto3
import botocore.config
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

REGION = "us-east-1"
BUCKET = "box"
seen = {}


def client(service, **more):
    return boto3.client(service, region_name=REGION, config=botocore.config.Config(
        retries={"total_max_attempts": 1}, **more))


def chunked(key, body, trailer):
    """A body whose chunks are signed, by code of our own: boto3 does not send such over TLS."""
    secret, key_id = os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    date, host = time[:8], f"{BUCKET}.s3.amazonaws.com"
    scope = f"{date}/{REGION}/s3/aws4_request"
    signing = ("AWS4" + secret).encode()
    for part in (date, REGION, "s3", "aws4_request"):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()

    def sign(text):
        return hmac.new(signing, text.encode(), hashlib.sha256).hexdigest()

    said = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    fields = {"content-encoding": "aws-chunked", "content-type": "text/plain", "host": host, "x-amz-content-sha256": said,
              "x-amz-date": time, "x-amz-decoded-content-length": str(len(body))}
    if trailer:
        fields["x-amz-trailer"] = "x-amz-checksum-sha256"
    names = ";".join(sorted(fields))
    canonical = "\n".join(["PUT", f"/{key}", "", *(f"{n}:{fields[n]}" for n in sorted(fields)), "", names, said])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    before = first = sign("\n".join(["AWS4-HMAC-SHA256", time, scope, digest]))
    empty = hashlib.sha256(b"").hexdigest()
    out = b""
    pieces = [body[at:at + 65536] for at in range(0, len(body), 65536)] + [b""]
    for piece in pieces:
        before = sign("\n".join(["AWS4-HMAC-SHA256-PAYLOAD", time, scope, before, empty,
                                 hashlib.sha256(piece).hexdigest()]))
        out += f"{len(piece):x};chunk-signature={before}\r\n".encode() + piece + (b"\r\n" if piece else b"")
    if trailer:
        import base64
        line = "x-amz-checksum-sha256:" + base64.b64encode(hashlib.sha256(body).digest()).decode()
        last = sign("\n".join(["AWS4-HMAC-SHA256-TRAILER", time, scope, before,
                               hashlib.sha256((line + "\n").encode()).hexdigest()]))
        out += f"{line}\r\nx-amz-trailer-signature:{last}\r\n".encode()
    out += b"\r\n"
    fields["authorization"] = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope},SignedHeaders={names},Signature={first}"
    request = urllib.request.Request(f"https://{host}/{key}", data=out, method="PUT", headers=fields)
    with urllib.request.urlopen(request) as answer:
        return answer.status


def main():
    seen["identity"] = client("sts").get_caller_identity()["Arn"]
    s3 = client("s3")
    s3.create_bucket(Bucket=BUCKET)
    for key in ("plain.txt", "with space+and=signs&more/ä.txt", "a//b/../c"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
        assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == key.encode(), key
    assert len(s3.list_objects_v2(Bucket=BUCKET, Prefix="with ", MaxKeys=7)["Contents"]) == 1
    big = os.urandom(12 * 1024 * 1024)
    with open("big", "wb") as file:
        file.write(big)
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
    s3.upload_file("big", BUCKET, "big", Config=parts)
    s3.download_file(BUCKET, "big", "back", Config=parts)
    with open("back", "rb") as file:
        assert file.read() == big
    part = s3.get_object(Bucket=BUCKET, Key="big", Range="bytes=10-19")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206 and part["Body"].read() == big[10:20]
    unsigned = client("s3", s3={"payload_signing_enabled": False})
    unsigned.put_object(Bucket=BUCKET, Key="unsigned", Body=b"unsigned")
    signed = client("s3", s3={"payload_signing_enabled": True}, request_checksum_calculation="when_required")
    signed.put_object(Bucket=BUCKET, Key="signed", Body=b"signed")
    later = client("s3", signature_version="s3v4", s3={"addressing_style": "virtual"})
    url = later.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "with space+and=signs&more/ä.txt"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == "with space+and=signs&more/ä.txt".encode()
    url = later.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "presigned"})
    urllib.request.urlopen(urllib.request.Request(
        url, data=b"presigned", method="PUT", headers={"content-type": "text/plain"}))
    assert s3.get_object(Bucket=BUCKET, Key="presigned")["Body"].read() == b"presigned"
    body = os.urandom(200_000)
    assert chunked("chunked", body, False) == 200
    assert s3.get_object(Bucket=BUCKET, Key="chunked")["Body"].read() == body
    assert chunked("trailed", body, True) == 200
    dynamo = client("dynamodb")
    dynamo.create_table(TableName="t", BillingMode="PAY_PER_REQUEST",
                        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}])
    dynamo.put_item(TableName="t", Item={"k": {"S": "1"}, "v": {"S": "x" * 100_000}})
    assert len(dynamo.get_item(TableName="t", Key={"k": {"S": "1"}})["Item"]["v"]["S"]) == 100_000
    manager = client("secretsmanager")
    manager.create_secret(Name="s", SecretString="of their own")
    assert manager.get_secret_value(SecretId="s")["SecretString"] == "of their own"
    seen["ok"] = True


if len(sys.argv) > 1:
    try:
        getattr(client(sys.argv[1]), sys.argv[2])()
        seen["ok"] = True
    except ClientError as error:
        seen["error"] = error.response["Error"]
        seen["status"] = error.response["ResponseMetadata"]["HTTPStatusCode"]
else:
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error}: {error.read().decode()}")
print(json.dumps(seen))
