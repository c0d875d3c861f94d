"""A gRPC client with a placeholder in its metadata; its arguments are the cases."""

import queue
import sys

import grpc

REFERENCE = (("authorization", "Bearer locum_grpc"),)
TIMEOUT = 60

# The roots are those of GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, the proxy is that of https_proxy.
channel = grpc.secure_channel("grpc.test:443", grpc.ssl_channel_credentials())


def unary_call(method, request, metadata=REFERENCE):
    return channel.unary_unary(f"/probe.Probe/{method}").with_call(request, TIMEOUT, metadata)


def shown(metadata):
    """Our own entries: a proxy or a server may add some."""
    return " ".join(f"{key}={value}" for key, value in metadata if key.startswith("x-"))


def unary():
    answer, call = unary_call("Unary", b"hello")
    print("unary:", answer.decode())
    initial, trailing = shown(call.initial_metadata()), shown(call.trailing_metadata())
    print(f"unary: initial {initial} trailing {trailing} code {call.code().name} details {call.details()!r}")


def server_stream():
    call = channel.unary_stream("/probe.Probe/ServerStream")(b"", TIMEOUT, REFERENCE)
    numbers = []
    for message in call:
        numbers.append(message.decode())
        if len(numbers) < 4:
            # The server says the next one only after this.
            unary_call("Next", b"")
    print("server-stream:", *numbers, "code", call.code().name)


def client_stream():
    messages = (b"x" * 6500 for _ in range(100))
    answer = channel.stream_unary("/probe.Probe/ClientStream")(messages, TIMEOUT, REFERENCE)
    print("client-stream:", answer.decode())


def bidirectional():
    said = queue.SimpleQueue()
    call = channel.stream_stream("/probe.Probe/Bidirectional")(iter(said.get, None), TIMEOUT, REFERENCE)
    heard = []
    # The last of them end as keys begin: nobody may wait for what follows.
    for word in (b"0", b"1", b"s", b"sk-", b"c2stY2", b"73"):
        said.put(b"ping " + word)
        heard.append(next(call).decode())
    said.put(None)
    assert next(call, None) is None
    print("bidirectional:", *heard, "code", call.code().name)


def failing(name, method, metadata=REFERENCE):
    try:
        unary_call(method, b"", metadata)
        print(f"{name}: no error")
    except grpc.RpcError as error:
        return error


def error():
    failure = failing("error", "Error")
    print(f"error: {failure.code().name} {failure.details()!r} trailing {shown(failure.trailing_metadata())}")


def refused(name, path, metadata):
    try:
        channel.unary_unary(path)(b"", TIMEOUT, metadata)
        print(f"{name}: no error")
    except grpc.RpcError as failure:
        print(f"{name}: {failure.code().name} {failure.details()}")


def forbidden_method():
    refused("forbidden-method", "/other.Service/Method", REFERENCE)


def unknown_reference():
    refused("unknown-reference", "/probe.Probe/Unary", (("authorization", "Bearer locum_none"),))


def whole(message):
    """Whether a message is as long as the server made it."""
    text = message.decode(errors="replace")
    length = int(text.rsplit(" ", 1)[1])
    expected = len(f"before {'x' * length} after {length}")
    return "framed as it was" if len(message) == expected else f"{len(message)} of {expected} bytes"


def echo():
    answer, _ = unary_call("Echo", b"")
    print("echo:", whole(answer), answer)


def echo_stream():
    call = channel.unary_stream("/probe.Probe/EchoStream")(b"", TIMEOUT, REFERENCE)
    messages = list(call)
    assert len(messages) == 3
    print("echo-stream:", *{whole(message) for message in messages}, call.code().name)


def echo_compressed():
    try:
        answer, _ = unary_call("Echo", b"compressed")
        print("echo-compressed:", whole(answer), answer)
    except grpc.RpcError as failure:
        print(f"echo-compressed: {failure.code().name} {failure.details()}")


def deadline():
    try:
        channel.unary_unary("/probe.Probe/Hang")(b"", 0.5, REFERENCE)
    except grpc.RpcError as failure:
        print(f"deadline: {failure.code().name}")


def echo_trailer():
    _, call = unary_call("Echo", b"trailer")
    print("echo-trailer: framed as it was", shown(call.trailing_metadata()))


def cut():
    call = channel.unary_stream("/probe.Probe/Cut")(b"", TIMEOUT, REFERENCE)
    count, last = 0, None
    try:
        for _ in call:
            count += 1
            if count < 3:
                unary_call("Next", b"")
            else:
                # The server ends on this one. Were the call dropped, it would be cancelled.
                last = channel.unary_unary("/probe.Probe/Next").future(b"", TIMEOUT, REFERENCE)
        print(f"cut: whole, {count} messages")
    except grpc.RpcError as failure:
        print(f"cut: {failure.code().name} after {count} messages")
    # A call that Python takes away while it ends waits for its own lock, now and then.
    if last:
        last.exception()


for case in sys.argv[1:]:
    globals()[case.replace("-", "_")]()
