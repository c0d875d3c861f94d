"""Has each SDK make a client of a stand-in and begin a call. The network is not there, so a call that
comes as far as wanting it has passed every check that the SDK makes of a key's shape.

Reads the stand-ins from standard input, and prints what came of each."""

import asyncio
import json
import socket
import sys

REACHED = "the call wanted the network"


def nowhere(*_args, **_kwargs):
    raise OSError(REACHED)


socket.getaddrinfo = nowhere
socket.create_connection = nowhere


def anthropic(key):
    import anthropic
    client = anthropic.Anthropic(api_key=key, max_retries=0)
    client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])


def openai(key):
    import openai
    openai.OpenAI(api_key=key, max_retries=0).models.list()


def groq(key):
    import groq
    groq.Groq(api_key=key, max_retries=0).models.list()


def stripe(key):
    import stripe
    stripe.StripeClient(key, max_network_retries=0).v1.customers.list()


def slack(key):
    from slack_sdk import WebClient
    WebClient(token=key).auth_test()


def slack_app(key):
    from slack_sdk.socket_mode import SocketModeClient
    SocketModeClient(app_token=key).issue_new_wss_url()


def twilio(key):
    from twilio.rest import Client
    Client("AC" + "0" * 32, key).messages.list(limit=1)


def discord(key):
    import discord
    client = discord.Client(intents=discord.Intents.default())

    async def login():
        try:
            await client.login(key)
        finally:
            await client.close()

    asyncio.run(login())


def github(key):
    import github
    github.Github(auth=github.Auth.Token(key), retry=None).get_user().login


def sendgrid(key):
    import sendgrid
    sendgrid.SendGridAPIClient(key).client.scopes.get()


def telegram_aiogram(key):
    from aiogram import Bot

    async def get_me():
        bot = Bot(key)
        try:
            await bot.get_me()
        finally:
            await bot.session.close()

    asyncio.run(get_me())


def telegram_telebot(key):
    import telebot
    telebot.TeleBot(key, threaded=False).get_me()


def supabase(key):
    from supabase import create_client
    create_client("https://x.supabase.test", key).table("t").select("*").execute()


def notion(key):
    import notion_client
    notion_client.Client(auth=key).users.me()


def huggingface(key):
    from huggingface_hub import HfApi
    HfApi(token=key).whoami()


def replicate(key):
    import replicate
    replicate.Client(api_token=key).models.get("a/b")


def wandb(key):
    # It asks by a program of its own, so that only its check is looked at.
    from wandb.sdk.lib.wbauth import validation
    problem = validation.check_api_key(key)
    raise OSError(problem or REACHED)


CALLS = {
    "anthropic": [anthropic],
    "openai": [openai],
    "groq": [groq],
    "stripe": [stripe],
    "slack": [slack],
    "slack-app": [slack_app],
    "twilio": [twilio],
    "discord": [discord],
    "github": [github],
    "sendgrid": [sendgrid],
    "telegram": [telegram_aiogram, telegram_telebot],
    "supabase": [supabase],
    "notion": [notion],
    "huggingface": [huggingface],
    "replicate": [replicate],
    "wandb": [wandb],
}


def causes(error):
    """What an error says, and all that it says it came of."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        error = error if isinstance(error, BaseException) else None
    return [f"{type(e).__name__}: {e}" for e in seen]


def attempt(call, key):
    try:
        call(key)
    except BaseException as error:
        said = causes(error)
        return "reached" if any(REACHED in text for text in said) else " < ".join(said)
    return "it did not want the network"


keys = json.load(sys.stdin)
results = {}
for provider, calls in CALLS.items():
    for call in calls:
        results[call.__name__] = attempt(call, keys[provider])
        # The same check, on what is no key of this provider, says whether the SDK looks at all.
        results[call.__name__ + " nonsense"] = attempt(call, "no key")
print(json.dumps({"results": results, "providers": sorted(CALLS)}))
