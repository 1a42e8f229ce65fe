"""Whether the hub can be reached."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import urllib.parse


def go_offline_if_needed() -> None:
    """Set `HF_HUB_OFFLINE` where the hub does not answer within 4 seconds; its client would retry for minutes."""
    if "HF_HUB_OFFLINE" in os.environ:
        return
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    reached: list[bool] = []

    def reach() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), timeout=3).close()
            reached.append(True)

    # In a thread, because the timeout does not cover the name server's own.
    attempt = threading.Thread(target=reach, daemon=True)
    attempt.start()
    attempt.join(4)
    if not reached:
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"{host} cannot be reached: only local files are checked", file=sys.stderr)
