"""The `httpx` library, with the key that the environment has, and a verifier as strict as Python 3.13's."""

import json
import os
import ssl

import httpx

key = os.environ["OPENAI_API_KEY"]
strict = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
strict.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
for verify in (True, strict):
    with httpx.Client(verify=verify) as client:
        answer = client.post(
            "https://api.openai.com/echo",
            headers={"Authorization": f"Bearer {key}"},
            content=b"hello",
        )
        answer.raise_for_status()
        print(dict(answer.headers))
        print(answer.text)
print(json.dumps(dict(os.environ)))
