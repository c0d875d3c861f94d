"""The `requests` library, with the key that the environment has."""

import json
import os

import requests

key = os.environ["OPENAI_API_KEY"]
with requests.Session() as session:
    for body in ("one", "two"):
        answer = session.post(
            "https://api.openai.com/echo",
            headers={"Authorization": f"Bearer {key}"},
            data=body,
        )
        answer.raise_for_status()
        print(dict(answer.headers))
        print(answer.text)
print(json.dumps(dict(os.environ)))
