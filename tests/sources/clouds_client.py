"""Google's and Azure's own clients, as their documents use them. One command as JSON on standard input, its
answer as JSON on standard output; hosts are found where the arguments say (HOST=IP:PORT)."""

import json
import socket
import sys

where = dict(argument.split("=") for argument in sys.argv[1:])
of_system = socket.getaddrinfo


def getaddrinfo(host, port, *rest, **more):
    address, port = where[host].split(":")
    return of_system(address, int(port), *rest, **more)


socket.getaddrinfo = getaddrinfo


def google(said):
    from google.api_core import exceptions
    from google.cloud import secretmanager
    from google.oauth2.credentials import Credentials

    client = secretmanager.SecretManagerServiceClient(
        credentials=Credentials(said["token"]), transport="rest"
    )
    method = getattr(client, said["method"])
    try:
        # Once: what the client makes of an answer is of interest, and not its patience.
        answer = method(request=said["request"], retry=None, timeout=30)
    except exceptions.GoogleAPICallError as error:
        return {"error": type(error).__name__, "status": error.code}
    if answer is None:
        return {}
    return json.loads(type(answer).to_json(answer))


def google_token(said):
    import requests
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    login = service_account.Credentials.from_service_account_info(
        said["account"], scopes=said["scopes"]
    )
    login.refresh(Request(requests.Session()))
    return {"token": login.token}


def azure(said):
    from azure.core.exceptions import HttpResponseError
    from azure.identity import ClientSecretCredential
    from azure.keyvault.secrets import SecretClient

    login = ClientSecretCredential(
        said["tenant"],
        said["client"],
        said["secret"],
        authority=said["authority"],
        # Otherwise Microsoft is asked whether this authority is one of theirs.
        disable_instance_discovery=True,
    )
    client = SecretClient(said["vault"], login, api_version=said["api"], retry_total=0)
    try:
        secret = client.get_secret(said["name"], said.get("version"))
    except HttpResponseError as error:
        inner = error.error.innererror if error.error else None
        return {
            "error": type(error).__name__,
            "status": error.status_code,
            "code": error.error.code if error.error else None,
            "inner": inner.get("code") if inner else None,
        }
    properties = secret.properties
    return {
        "name": secret.name,
        "value": secret.value,
        "version": properties.version,
        "enabled": properties.enabled,
        "expires": properties.expires_on and int(properties.expires_on.timestamp()),
    }


command = json.load(sys.stdin)
print(json.dumps(globals()[command["as"]](command)))
