"""Watches a room with python-socketio, and prints what it receives as lines of JSON.

python.py URL ROOM [async] TRANSPORT...
"""

import asyncio
import json
import sys

import socketio
from engineio.payload import Payload

# By default, an answer to a poll may have 16 packets, and the client gives up if it has more.
Payload.max_decode_packets = 1000


def show(what):
    print(json.dumps(what), flush=True)


def plain(value):
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def watch(url, room, transports):
    client = socketio.Client()
    client.on("message", lambda *args: show(["message", *map(plain, args)]))
    client.on("disconnect", lambda *args: show(["disconnect"]))
    client.connect(url, transports=transports)
    show(["joined", client.call("channel", (room, {"meta": True}))])
    client.wait()


async def watch_async(url, room, transports):
    client = socketio.AsyncClient()
    client.on("message", lambda *args: show(["message", *map(plain, args)]))
    client.on("disconnect", lambda *args: show(["disconnect"]))
    await client.connect(url, transports=transports)
    show(["joined", await client.call("channel", (room, {"meta": True}))])
    await client.wait()


url, room, *transports = sys.argv[1:]
if transports[0] == "async":
    asyncio.run(watch_async(url, room, transports[1:]))
else:
    watch(url, room, transports)
