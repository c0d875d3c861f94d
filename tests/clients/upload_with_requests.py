"""Uploads with the `requests` library: with a length, and in chunks, of a form and of JSON."""

import requests

URL = "https://upload.test/open/x"


def pieces(data):
    """A body of which nobody knows the length."""
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


def post(kind, data):
    answer = session.post(URL, data=data, headers={"Content-Type": kind})
    answer.raise_for_status()


with requests.Session() as session, open("file.bin", "rb") as file:
    prepared = session.prepare_request(
        requests.Request("POST", URL, data={"token": "locum_main"}, files={"file": file})
    )
    form, kind = prepared.body, prepared.headers["Content-Type"]
    with open("text.json", "rb") as file:
        text = file.read()
    post(kind, form)
    post(kind, pieces(form))
    post("application/json", text)
    post("application/json", pieces(text))
