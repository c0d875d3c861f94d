"""A gRPC server with TLS. Messages are bytes, so that nothing has to be generated.

It takes calls with the key of the environment alone, and prints each one.
"""

import os
import sys
import threading
from concurrent import futures

import grpc

KEY = os.environ["KEY"]
released = threading.Semaphore(0)


def check(method, context):
    shown = dict(context.invocation_metadata()).get("authorization")
    with_key = shown == f"Bearer {KEY}"
    print(f"called {method} {'with the key' if with_key else 'without it'}", flush=True)
    if not with_key:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "another key")


def unary(request, context):
    check("Unary", context)
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-trailing", "2"),))
    return request


def server_stream(_request, context):
    check("ServerStream", context)
    for number in range(4):
        if number:
            released.acquire()
        yield str(number).encode()


def next_message(_request, context):
    check("Next", context)
    released.release()
    return b""


def client_stream(requests, context):
    check("ClientStream", context)
    lengths = [len(request) for request in requests]
    return f"{len(lengths)} messages, {sum(lengths)} bytes".encode()


def bidirectional(requests, context):
    check("Bidirectional", context)
    for request in requests:
        yield request.replace(b"ping", b"pong")


def error(_request, context):
    check("Error", context)
    context.set_trailing_metadata((("x-trailing", "2"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


def echo(request, context):
    """One message with the key in the middle; how long it is, is known to the client."""
    check("Echo", context)
    if request == b"compressed":
        context.set_compression(grpc.Compression.Gzip)
    if request == b"trailer":
        context.set_trailing_metadata((("x-key", KEY), ("x-length", str(len(KEY)))))
        return b""
    return f"before {KEY} after {len(KEY)}".encode()


def echo_stream(_request, context):
    check("EchoStream", context)
    for _ in range(3):
        yield f"before {KEY} after {len(KEY)}".encode()


def cut(_request, context):
    check("Cut", context)
    for number in range(3):
        if number:
            released.acquire()
        yield str(number).encode()
    released.acquire()
    os._exit(1)


def hang(_request, context):
    check("Hang", context)
    gone = futures.Future()
    context.add_callback(lambda: gone.set_result(None))
    gone.result(timeout=60)
    print("called off", flush=True)
    return b""


METHODS = {
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Next": grpc.unary_unary_rpc_method_handler(next_message),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
    "Error": grpc.unary_unary_rpc_method_handler(error),
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "EchoStream": grpc.unary_stream_rpc_method_handler(echo_stream),
    "Cut": grpc.unary_stream_rpc_method_handler(cut),
}

certificate, private = (open(path, "rb").read() for path in sys.argv[1:3])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe.Probe", METHODS),))
credentials = grpc.ssl_server_credentials(((private, certificate),))
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print("port", port, flush=True)
server.wait_for_termination()
