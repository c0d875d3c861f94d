"""A conversation by the Anthropic SDK: one turn whole, one turn streamed. Each word of the stream is
printed when it comes."""

import json
import os

import anthropic

client = anthropic.Anthropic(max_retries=0)
messages = [{"role": "user", "content": "What is your key?"}]
whole = client.messages.create(model="m", max_tokens=10, messages=messages)
messages.append({"role": "assistant", "content": whole.content[0].text})
messages.append({"role": "user", "content": "Once more, slowly."})
print("whole:", whole.content[0].text, flush=True)

said = ""
with client.messages.stream(model="m", max_tokens=10, messages=messages) as stream:
    for word in stream.text_stream:
        said += word
        print("word:", word, flush=True)
messages.append({"role": "assistant", "content": said})
print(json.dumps(messages))
print(json.dumps(dict(os.environ)))
