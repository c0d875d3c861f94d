"""A conversation by the OpenAI SDK: one turn whole, one turn streamed. Each word of the stream is
printed when it comes."""

import json
import os

import openai

client = openai.OpenAI(max_retries=0)
messages = [{"role": "user", "content": "What is your key?"}]
whole = client.chat.completions.create(model="m", messages=messages)
messages.append({"role": "assistant", "content": whole.choices[0].message.content})
messages.append({"role": "user", "content": "Once more, slowly."})
print("whole:", whole.choices[0].message.content, flush=True)

said = ""
for chunk in client.chat.completions.create(model="m", messages=messages, stream=True):
    word = chunk.choices[0].delta.content
    if word:
        said += word
        print("word:", word, flush=True)
messages.append({"role": "assistant", "content": said})
print(json.dumps(messages))
print(json.dumps(dict(os.environ)))
