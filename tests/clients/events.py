"""Follows a room as Server-Sent Events, and prints the events as lines of JSON.

events.py URL sseclient | httpx
"""

import json
import sys


def show(event, data):
    print(json.dumps([event or "message", data]), flush=True)


def by_sseclient(url):
    import requests
    import sseclient

    response = requests.get(url, stream=True, headers={"accept": "text/event-stream"}, timeout=60)
    for event in sseclient.SSEClient(response).events():
        show(event.event, event.data)


def by_httpx(url):
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=60) as client, connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            show(event.event, event.data)


url, client = sys.argv[1:]
{"sseclient": by_sseclient, "httpx": by_httpx}[client](url)
