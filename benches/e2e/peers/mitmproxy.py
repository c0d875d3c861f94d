"""mitmproxy as a peer: every connection leads to the origin, every request gets the key, no body waits."""


def server_connect(data):
    data.server.address = ("127.0.0.1", @ORIGIN@)


def server_connected(data):
    # It reuses a connection for the address that the client named, and that one alone.
    object.__setattr__(data.server, "address", (data.server.sni, 443))


def requestheaders(flow):
    flow.request.headers["authorization"] = "Bearer @SECRET@"
    flow.request.stream = True


def responseheaders(flow):
    flow.response.stream = True
