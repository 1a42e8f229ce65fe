from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable


def packed_nccl_broadcast_producer(
    iterator: Iterable[object], group: object, src: int, post_iter_func: Callable[[object], object]
) -> None:
    """Take every weight, as sending it would, and send none: to gather one, all processes must take it."""
    deque(map(post_iter_func, iterator), maxlen=0)
