"""Engines generate completions, with token counts and finish reasons, from prompts.

Three share one interface: transformers in this process (the default, on CPU or GPU), vLLM in this process, and any
OpenAI-compatible server. An engine is a class; the recipe gives its parameters beside its name. The random numbers of
a completion depend only on the seed, the prompt's row and the completion's number (`derive_seed`), never on the other
completions of its batch.

The names of nested lists carry their axes: P prompts, N completions of each.
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


# name -> module and class
ENGINES: dict[str, str] = {
    "transformers": "open_r1.engines.transformers:Transformers",
    "vllm": "open_r1.engines.vllm:VLLM",
    "server": "open_r1.engines.server:Server",
}


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling; 1 keeps all tokens.
        top_k: number of likeliest tokens to sample from; 0 keeps all.
        max_tokens: limit of one completion.
        stop: texts that end a completion; they are cut off.
        seed: of the whole run; `derive_seed` gives each completion its own.
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
        text: as scorers see it, including the `<think>` that the prompt's template has opened; None if refused.
        tokens: number of generated tokens, including the end token.
        finish_reason: stop (end token or stop text), length (cut at max_tokens or at the model's window), refused.
        refused: why the prompt can have no completion, e.g. it is longer than the window.
    """

    text: str | None
    tokens: int
    finish_reason: Literal["stop", "length", "refused"]
    refused: str | None = None


def make_refusal(reason: str) -> Completion:
    return Completion(None, 0, "refused", reason)


class Engine(Protocol):
    """Generates completions.

    Attributes:
        model: the model's name, for the `model` column.
        at_once: number of calls of `generate` to run in parallel threads for full speed.
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
            prompts: texts to continue, or conversations for the chat template.
            n: completions of each prompt.
            sampling: how they are drawn.
            rows: row of each prompt in its dataset, from which its seeds derive; 0, 1, ... by default.
            done: called, from any thread, with the numbers of completions and tokens since its last call.

        Raises:
            RecipeError: the engine cannot continue.
        """
        ...

    def close(self) -> None:
        """Free the engine's model and connections."""
        ...


def find_engine(name: str) -> type:
    """The class of a name in `ENGINES`, or of `package.module:Class` for an engine of the user.

    Raises:
        RecipeError: there is none; the message suggests the nearest name.
    """
    return import_place(locate(name, ENGINES, "engine", "engine"), f"engine: {name}")


def check_engine(config: EngineConfig) -> None:
    """Check an engine's name and parameters; values are checked by the engine's own `check`, if it has one.

    Raises:
        RecipeError: with the key, and the nearest valid one.
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
    """The engine of a recipe, with its model loaded.

    Raises:
        RecipeError: the engine's parameters are wrong, or the model cannot be loaded.
    """
    config = recipe.args.engine
    check_engine(config)
    return find_engine(config.name)(recipe, **config.parameters)


def derive_seed(seed: int, row: int, sample: int) -> int:
    """The seed of one completion: 31 bits, the same on every machine.

    >>> derive_seed(0, row=0, sample=1)
    769533419
    """
    digest = hashlib.sha256(f"{seed}:{row}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
