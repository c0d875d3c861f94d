"""A gRPC server that knows no message: it hands back bytes, and says what it saw of each call."""

import sys
from concurrent import futures

import grpc

certificate, key = (open(path, "rb").read() for path in sys.argv[1:3])


def note(context, what):
    fields = dict(context.invocation_metadata())
    remaining = context.time_remaining()
    timed = remaining is not None and remaining < 1e6
    print(f"call: {what} {fields.get('authorization')} deadline={timed}", flush=True)
    context.set_trailing_metadata((("x-echo", fields.get("authorization", "")),))


def unary(request, context):
    note(context, "unary")
    return b"you said " + request


def fail(request, context):
    note(context, "fail")
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % Ω")


def down(request, context):
    note(context, "down")
    for n in range(3):
        yield b"%d " % n + request
    # More than any window or buffer holds.
    for _ in range(40):
        yield b"x" * 100_000


def up(requests, context):
    note(context, "up")
    return b"+".join(requests)


def both(requests, context):
    note(context, "both")
    for request in requests:
        yield b"re: " + request


def hang(request, context):
    note(context, "hang")
    gone = futures.Future()
    context.add_callback(lambda: gone.set_result(None))
    gone.result(timeout=30)
    print("call: cancelled", flush=True)
    return b""


class Echo(grpc.GenericRpcHandler):
    METHODS = {
        "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
        "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
        "/test.Echo/Down": grpc.unary_stream_rpc_method_handler(down),
        "/test.Echo/Up": grpc.stream_unary_rpc_method_handler(up),
        "/test.Echo/Both": grpc.stream_stream_rpc_method_handler(both),
        "/test.Echo/Hang": grpc.unary_unary_rpc_method_handler(hang),
    }

    def service(self, details):
        return self.METHODS.get(details.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Echo(),))
credentials = grpc.ssl_server_credentials([(key, certificate)])
print("port:", server.add_secure_port("127.0.0.1:0", credentials), flush=True)
server.start()
server.wait_for_termination()
