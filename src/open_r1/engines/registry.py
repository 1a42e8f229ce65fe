"""Engines: prompts in, completions with token counts and finish reasons out.

Three behind one interface: transformers in this process (the default, CPU and GPU), vLLM in this process, and any
server that speaks OpenAI's protocol. An engine is a class whose parameters stand beside its name in the recipe. The
randomness of a completion comes from the seed, its prompt's row and its number alone (`seed_of`), never from what else
is generated beside it.

Nested lists carry their axes: P prompts, N completions of each.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import RecipeError, suggest_nearest
from ..prompts import Messages
from ..system.registry import import_place, locate

if TYPE_CHECKING:
    from ..config.recipe import Recipe
    from ..config.schema import EngineConfig


# name -> where its class is.
ENGINES: dict[str, str] = {
    "transformers": "open_r1.engines.transformers:Transformers",
    "vllm": "open_r1.engines.vllm:VLLM",
    "server": "open_r1.engines.server:Server",
}


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: nucleus sampling; 1 keeps all tokens.
        top_k: the most tokens to choose from; 0 keeps all.
        max_tokens: of one completion.
        stop: texts that end a completion; they are cut off.
        seed: of all completions; each has its own by `seed_of`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    Args:
        text: as scorers see it: `<think>` is put back in front if the prompt's template had opened it; None if
            refused.
        tokens: generated, the end token included.
        finish_reason: stop (end token or stop text), length (cut at max_tokens or at the model's window), refused.
        refused: why there is no completion, and never will be: a prompt longer than the window, say.
    """

    text: str | None
    tokens: int
    finish_reason: Literal["stop", "length", "refused"]
    refused: str | None = None


def make_refusal(reason: str) -> Completion:
    return Completion(None, 0, "refused", reason)


class Engine(Protocol):
    """What generates.

    Attributes:
        model: the model's name, for the record.
        at_once: calls of `generate` that gain from running side by side, from threads.
    """

    model: str
    at_once: int

    def generate(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int] | None = None,
        done: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of each prompt (P x N).

        Args:
            prompts: text that a base model continues, or a conversation for the chat template.
            n: completions of each prompt.
            sampling: how they are drawn.
            rows: number of each prompt in its dataset, on which its randomness rests; 0, 1, ... by default.
            done: called with the completions and tokens that have come since the last call; from any thread.

        Raises:
            RecipeError: the engine cannot go on; whatever was written before stays.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def find_engine(name: str) -> type:
    """The class of a name in `ENGINES`, or of `package.module:Class` for one's own.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    return import_place(locate(name, ENGINES, "engine", "engine"), f"engine: {name}")


def check_engine(config: EngineConfig) -> None:
    """Refuse an unknown engine and parameters that it does not have, or that it refuses itself (`engine.check`).

    Raises:
        RecipeError: naming the key and the nearest one.
    """
    engine = find_engine(config.name)
    parameters = list(inspect.signature(engine).parameters.values())[1:]
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    for key in config.parameters:
        if key not in known and not takes_any:
            raise RecipeError(f"engine.{key}: {config.name} has no such parameter{suggest_nearest(key, known)}")
    if hasattr(engine, "check"):
        engine.check(**config.parameters)


def open_engine(recipe: Recipe) -> Engine:
    """The engine of a recipe, its model loaded.

    Raises:
        RecipeError: the recipe's engine or model cannot be had.
    """
    config = recipe.args.engine
    check_engine(config)
    return find_engine(config.name)(recipe, **config.parameters)


def derive_seed(seed: int, row: int, sample: int) -> int:
    """The seed of one completion: 31 bits, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{row}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
