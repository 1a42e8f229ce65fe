"""A real HTTP server that plays an OpenAI-compatible endpoint and its failures.

In the tests' own process (`servers`), or as one that can be killed: `python standin.py PORT SECONDS`.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers a POST by `behave(handler, body, number)`: status, headers, content; None if that wrote them itself.

    A GET gets `models`.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.behave = behave
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.models: list[dict] = [{"id": "m"}]
        self.bodies, self.headers = [], []
        self.now, self.most = 0, 0
        self.lock = threading.Lock()

    def start(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer(200, {}, json.dumps({"object": "list", "data": self.server.models}))

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append((self.path, body))
            server.headers.append(dict(self.headers))
            server.now += 1
            server.most = max(server.most, server.now)
            number = len(server.bodies)
        try:
            answer = server.behave(self, body, number)
        finally:
            with server.lock:
                server.now -= 1
        if answer is not None:
            self.answer(*answer)

    def answer(self, status: int, headers: dict, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def servers() -> Iterator[Callable[..., Server]]:
    """`start(behave)` gives a running server; all of them stop in the end."""
    started = []

    def start(behave) -> Server:
        started.append(Server(behave).start())
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def hang(handler, body, number):
    time.sleep(1.5)


def drip(handler, body, number):
    """One byte every 20 ms, for ever: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def close(handler, body, number):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.connection.close()


def completion(body: dict, text: str | None, finish_reason: str = "stop", tokens: int = 5, **message):
    """A model's answer to a request, as text or as a message (to which `message` is added)."""
    said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text, **message}}
    choice = {"index": 0, **said, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return 200, {"Content-Type": "application/json"}, json.dumps({"choices": [choice], "usage": usage})


def prompt_of(body: dict) -> str:
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


def says_prompt_and_seed(handler, body, number):
    """A model whose completions show what they were made from."""
    return completion(body, f"{prompt_of(body)} {body['seed']}", tokens=3 + body["seed"] % 5)


if __name__ == "__main__":
    seconds = float(sys.argv[2])

    def slow(handler, body, number):
        time.sleep(seconds)
        return says_prompt_and_seed(handler, body, number)

    Server(slow, int(sys.argv[1])).serve_forever(poll_interval=0.01)
