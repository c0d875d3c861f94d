"""gRPC of every kind, with the placeholder where the key goes. Prints what each call came to."""

import os
import queue

import grpc

KEY = (("authorization", "Bearer " + os.environ["PLACEHOLDER"]),)
roots = open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb").read()
channel = grpc.secure_channel("grpc.test:443", grpc.ssl_channel_credentials(roots))


def failed(name, call):
    try:
        call()
    except grpc.RpcError as error:
        print(f"{name}: {error.code().name} {error.details()}", flush=True)
    else:
        print(f"{name}: no error", flush=True)


unary = channel.unary_unary("/test.Echo/Unary")
answer, call = unary.with_call(b"hello", metadata=KEY, timeout=20)
print("unary:", answer.decode(), call.code().name, dict(call.trailing_metadata())["x-echo"], flush=True)

down = channel.unary_stream("/test.Echo/Down")(b"d", metadata=KEY)
pieces = list(down)
print("down:", len(pieces), sum(map(len, pieces)), down.code().name, flush=True)

up = channel.stream_unary("/test.Echo/Up")
print("up:", up(iter([b"a", b"b", b"c" * 300_000]), metadata=KEY)[:6].decode(), flush=True)

# Each message waits for the answer to the one before.
said = queue.Queue()
both = channel.stream_stream("/test.Echo/Both")(iter(said.get, None), metadata=KEY)
for word in ("one", "two", "three"):
    said.put(word.encode())
    print("both:", next(both).decode(), flush=True)
said.put(None)
print("both:", list(both), both.code().name, flush=True)

failed("fail", lambda: channel.unary_unary("/test.Echo/Fail")(b"", metadata=KEY))
failed("unknown", lambda: channel.unary_unary("/test.Echo/Nothing")(b"", metadata=KEY))
failed("late", lambda: channel.unary_unary("/test.Echo/Hang")(b"", metadata=KEY, timeout=0.5))
failed("refused", lambda: unary(b"", metadata=(("authorization", "Bearer locum_other"),)))
failed("forbidden", lambda: channel.unary_unary("/other.Service/Call")(b"", metadata=KEY))
