"""A small MCP server over stdio, for tests, that can misbehave in every way a test needs.

Run as `python plain_server.py [mode]`. It speaks the 2025-11-25 handshake with the standard library alone, so that it
starts in milliseconds. What it is asked to do wrong is a tool's name; what goes wrong before any tool is the mode.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

NAMES = """
    echo exit garbage greet huge hang hold release cancelled environment surrogate nan stderr spawn change picture
    progress refuse fail wrong_shape deep pid ask
""".split()  # noqa: SIM905 - a list of words

mode = sys.argv[1] if len(sys.argv) > 1 else "good"
held: list[Any] = []
cancelled: list[Any] = []
names = list(NAMES)


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(request: Any, value: str, **more: Any) -> None:
    send({"id": request, "result": {"content": [{"type": "text", "text": value}], **more}})


def listing(request: Any, cursor: str | None) -> None:
    if mode == "mute":
        return
    tools = [{"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object"}} for name in names]
    if mode == "endless":
        tools[0]["name"] = f"tool_{cursor or 0}"
        send({"id": request, "result": {"tools": tools[:1], "nextCursor": str(int(cursor or 0) + 1)}})
        return
    tools[0]["annotations"] = {"readOnlyHint": True}
    if mode == "absurd":
        tools.append({"name": "x" * 500, "inputSchema": {"type": "object"}})
        tools.append({"name": "vast", "inputSchema": {"type": "object", "description": "v" * 100_000}})
        tools[0]["description"] = "d" * 100_000
    send({"id": request, "result": {"tools": tools}})


def call(request: Any, name: str, arguments: dict[str, Any], token: Any) -> None:
    match name:
        case "echo":
            text(request, str(arguments.get("text")))
        case "exit":
            os._exit(3)
        case "garbage":
            for number in range(100):
                print(f"garbage {number}")
            sys.stdout.flush()
        case "greet":
            print("Welcome to the server!", flush=True)
            text(request, "greeted")
        case "huge":
            text(request, "h" * int(arguments["bytes"]))
        case "hang":
            pass
        case "hold":
            held.append(request)
        case "release":
            text(request, str(len(held)))
            while held:
                text(held.pop(), "released")
        case "cancelled":
            text(request, json.dumps(cancelled))
        case "environment":
            text(request, json.dumps(dict(os.environ)))
        case "surrogate":
            text(request, "cut in half: \ud83d")
        case "nan":
            send({"id": request, "result": {"content": [], "structuredContent": {"value": float("nan")}}})
        case "stderr":
            for _ in range(int(arguments.get("lines", 1))):
                sys.stderr.write(str(arguments.get("text")) + "\n")
            sys.stderr.flush()
            text(request, "written")
        case "spawn":
            child = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
            text(request, str(child.pid))
        case "change":
            names.append("brand_new")
            send({"method": "notifications/tools/list_changed"})
            text(request, "changed")
        case "picture":
            image = {"type": "image", "data": "A" * 16_000, "mimeType": "image/png"}
            send({"id": request, "result": {"content": [image]}})
        case "progress":
            for number in range(int(arguments["steps"])):
                told = arguments.get("text", "p" * 2000)
                params = {"progressToken": token, "progress": number, "total": 10, "message": told}
                send({"method": "notifications/progress", "params": params})
            text(request, arguments.get("text", "done"))
        case "refuse":
            send({"id": request, "error": {"code": -32602, "message": "refused: " + "r" * 5000}})
        case "fail":
            text(request, "it went wrong", isError=True)
        case "wrong_shape":
            send({"id": request, "result": {"content": "not a list"}})
        case "deep":
            print(f'{{"jsonrpc":"2.0","id":{request},"result":{"[" * 10_000}{"]" * 10_000}}}', flush=True)
        case "pid":
            text(request, str(os.getpid()))
        case "ask":
            send({"id": "q1", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
            held.append(request)
        case _:
            send({"id": request, "error": {"code": -32602, "message": f"unknown tool {name}"}})


def main() -> None:
    if mode == "exit":
        sys.exit("I do not want to.")
    if mode == "silent":
        time.sleep(1000)
    if mode == "garbage":
        while True:
            print("This is no MCP server.", flush=True)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        message = json.loads(line)
        method, request, params = message.get("method"), message.get("id"), message.get("params") or {}
        match method:
            case "initialize":
                capabilities = {"tools": {"listChanged": mode != "unchanging"}}
                result = {"protocolVersion": "2025-11-25", "capabilities": capabilities}
                send({"id": request, "result": {**result, "serverInfo": {"name": "plain", "version": "1"}}})
            case "tools/list":
                listing(request, params.get("cursor"))
            case "tools/call":
                call(
                    request, params["name"], params.get("arguments") or {}, params.get("_meta", {}).get("progressToken")
                )
            case "notifications/cancelled":
                cancelled.append(params["requestId"])
            case None:  # an answer to what we asked
                while held:
                    text(held.pop(), json.dumps(message.get("error") or message.get("result")))
            case _ if request is not None:
                send({"id": request, "error": {"code": -32601, "message": f"no {method}"}})
    if mode == "stubborn":
        time.sleep(1000)


if __name__ == "__main__":
    main()
