"""The trainer's end of the group that weights are sent in: of one member, without NCCL."""

from __future__ import annotations

from types import SimpleNamespace


def trainer_init(init_info: dict[str, object]) -> SimpleNamespace:
    """What TRL holds, and lets go of `group.store` and `group.socket` in the end."""
    return SimpleNamespace(group=SimpleNamespace(store=None, socket=None))
