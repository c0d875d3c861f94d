"""Fetches each URL of standard input with the library that is named, and says of each whether it came
whole. Where a client takes a cut answer for whole, a test fails."""

import http.client
import os
import ssl
import sys
from urllib.parse import urlsplit

import httpx
import requests


def plain(url):
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    basic = requests.auth._basic_auth_str(proxy.username, proxy.password)
    target = urlsplit(url)
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context)
    connection.set_tunnel(target.hostname, 443, {"Proxy-Authorization": basic})
    connection.request("GET", target.path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def by_requests(url):
    answer = requests.get(url, headers=headers)
    return answer.status_code, answer.content


def by_httpx(url):
    answer = httpx.get(url, headers=headers)
    return answer.status_code, answer.content


headers = {"Authorization": "Bearer locum_main"}
fetch = {"http.client": plain, "requests": by_requests, "httpx": by_httpx}[sys.argv[1]]
for line in sys.stdin:
    try:
        status, body = fetch(line.strip())
        print("whole" if status == 200 else f"status {status}", len(body))
    except Exception as error:
        print("error", repr(error)[:100])
