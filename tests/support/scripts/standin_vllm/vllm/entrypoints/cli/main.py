"""`python -m vllm.entrypoints.cli.main serve MODEL [flags]`: the HTTP interface of vLLM 0.30, with no model behind it.

What is asked of a real server to train against it is asked of this one: VLLM_SERVER_DEV_MODE=1 for the endpoints that
take weights, `--weight-transfer-config` for an engine to take them with. Other flags are accepted and ignored. Weights
are only announced; each finished update is counted, and GET /standin/updates tells how many there were.

The environment tells how it fails: STANDIN_VLLM_DELAY are seconds until the port opens, and after as many requests for
completions as STANDIN_VLLM_DIES_AFTER (0: never) it dies, the last one answered.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# Of the miniature's tokenizer: its end, and the first ordinary word and the one after the last that is given.
EOS, FIRST, LAST = 1, 6, 40
# About what each of its 82 words has from a new model, so that no ratio of trainer to server is out of bounds.
LOGPROB = -4.4
DEVELOPMENT = {
    "/server_info", "/get_world_size", "/init_weight_transfer_engine", "/start_weight_update", "/update_weights",
    "/finish_weight_update", "/reset_prefix_cache",
}  # fmt: skip


def completion(prompt: list[int], place: int, max_tokens: int) -> list[int]:
    """Some ids, mostly with an end, that only depend on the prompt and their place among its completions."""
    draw = random.Random(f"{prompt} {place}")
    ids = [draw.randrange(FIRST, LAST) for _ in range(draw.randint(2, 6))] + [EOS] * (draw.random() < 0.75)
    return ids[:max_tokens]


def prompts_of(given: Any) -> list[list[int]]:
    """One prompt or several, as text (whose bytes then stand for words) or ids."""
    several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return [[byte % LAST for byte in one.encode()] if isinstance(one, str) else one for one in several]


def choice(index: int, prompt: list[int], ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"index": index, "text": " ".join(map(str, ids)), "logprobs": None}
    told["finish_reason"] = "stop" if ids[-1:] == [EOS] else "length"
    if body.get("return_token_ids"):
        told |= {"prompt_token_ids": prompt, "token_ids": ids}
    if body.get("logprobs") is not None:
        tokens = [f"token_id:{number}" for number in ids]
        told["logprobs"] = {
            "tokens": tokens,
            "token_logprobs": [LOGPROB] * len(ids),
            "top_logprobs": [{token: LOGPROB} for token in tokens],
        }
    return told


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options: argparse.Namespace, transfers: bool):
        self.options = options
        self.transfers = transfers
        self.development = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
        self.dies_after = int(os.environ.get("STANDIN_VLLM_DIES_AFTER", "0"))
        self.requests, self.updates = 0, 0
        self.joined, self.updating = False, False
        self.lock = threading.Lock()
        super().__init__((options.host, options.port), Handler)

    def server_bind(self) -> None:
        """Without the host's name, for which HTTPServer would ask a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def look(self, path: str) -> dict[str, Any] | None:
        """The answer to a GET; None if there is no such page."""
        options = self.options
        pages = {
            "/health": {},
            "/v1/models": {"object": "list", "data": [{"id": options.served_model_name or options.model}]},
            "/standin/updates": {"updates": self.updates},
            "/get_world_size": {"world_size": options.tensor_parallel_size * options.data_parallel_size},
            "/server_info": {
                "vllm_config": {
                    "weight_transfer_config": {"backend": "nccl"} if self.transfers else None,
                    "model_config": {"logprobs_mode": options.logprobs_mode},
                }
            },
        }
        return pages.get(path)

    def act(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a POST; None if there is no such page.

        Raises:
            ValueError: weights in another order than join, start, update, finish.
        """
        with self.lock:
            if path == "/v1/completions":
                self.requests += 1
                return self.completions(body)
            if path == "/reset_prefix_cache":
                return {"success": True}
            if path == "/init_weight_transfer_engine":
                self.joined = True
            elif path == "/start_weight_update":
                self.expect(self.joined and not self.updating, path)
                self.updating = True
            elif path == "/update_weights":
                self.expect(self.updating, path)
            elif path == "/finish_weight_update":
                self.expect(self.updating, path)
                self.updating = False
                self.updates += 1
            else:
                return None
            return {"message": "done"}

    @staticmethod
    def expect(in_order: bool, path: str) -> None:
        if not in_order:
            raise ValueError(f"{path} is out of order")

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        prompts, most = prompts_of(body["prompt"]), body.get("max_tokens") or 16
        made = [(prompt, completion(prompt, place, most)) for prompt in prompts for place in range(body.get("n") or 1)]
        read, written = sum(map(len, prompts)), sum(len(ids) for _, ids in made)
        return {
            "object": "text_completion",
            "model": body.get("model"),
            "choices": [choice(index, prompt, ids, body) for index, (prompt, ids) in enumerate(made)],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }

    def die_if_asked(self) -> None:
        if self.dies_after and self.requests >= self.dies_after:
            print("standin vllm: dying as asked", file=sys.stderr, flush=True)
            os._exit(1)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.answer(self.server.look(path) if self.there(path) else None)

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            # 400, not 500: TRL would send the latter again and again.
            self.answer(self.server.act(path, json.loads(content or b"{}")) if self.there(path) else None)
        except ValueError as error:
            self.answer({"error": {"message": str(error)}}, 400)
        self.server.die_if_asked()

    def there(self, path: str) -> bool:
        return self.server.development or path not in DEVELOPMENT

    def answer(self, told: dict[str, Any] | None, status: int = 200) -> None:
        content = json.dumps({"detail": "Not Found"} if told is None else told).encode()
        self.send_response(404 if told is None else status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def options_of(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Those that are acted upon, and the other words."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--data-parallel-size", "-dp", type=int, default=1)
    parser.add_argument("--served-model-name")
    parser.add_argument("--logprobs-mode", default="raw_logprobs")
    return parser.parse_known_args(words)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    options, others = options_of(sys.argv[1:])
    time.sleep(float(os.environ.get("STANDIN_VLLM_DELAY", "0")))
    try:
        server = Server(options, any(word.startswith("--weight-transfer-config") for word in others))
    except OSError as error:
        sys.exit(f"OSError: {error}")
    try:
        server.serve_forever(poll_interval=0.05)
    finally:
        print(f"standin vllm: {server.requests} requests for completions", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
