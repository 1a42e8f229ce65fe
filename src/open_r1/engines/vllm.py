"""vLLM in this process (`vllm.LLM`)."""

from __future__ import annotations

import importlib.util
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from ..prompts import Messages
from .registry import Completion, Sampling, derive_seed, make_refusal
from .transformers import TokenizedPrompt, cut_at_stop, find_end_ids, tokenize_prompt

if TYPE_CHECKING:
    from ..config.recipe import Recipe


MISSING = "engine: vllm is not installed; run `make install EXTRAS=gpu`, or use the transformers engine"


class VLLM:
    """Sends one request per completion, with the completion's own seed; prefix caching shares the prompt.

    vLLM draws by the request's seed, so a completion depends on its batch only through rounding.

    Args:
        recipe: names the model and its tokenizer.
        llm: arguments of `vllm.LLM`: `tensor_parallel_size`, `gpu_memory_utilization`, `max_model_len`, ...
    """

    at_once = 1

    def __init__(self, recipe: Recipe, **llm: Any):
        try:
            import vllm
        except ImportError as error:
            raise RecipeError(MISSING) from error
        from .. import models

        self.tokenizer = models.load_tokenizer(recipe)
        self.model = models.prepare_weights(recipe, self.tokenizer)
        arguments = {
            "model": self.model,
            "revision": recipe.model.model_revision,
            "dtype": recipe.model.dtype,
            "trust_remote_code": recipe.args.trust_remote_code,
        }
        tokenizer = recipe.data.tokenizer_name_or_path
        if tokenizer and ":" not in tokenizer:
            arguments["tokenizer"] = tokenizer
        arguments |= llm
        others = multiprocessing.active_children()
        try:
            self.llm = vllm.LLM(**arguments)
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise RecipeError(f"engine: vLLM does not start with {arguments}: {error}") from error
        self.cores = [child for child in multiprocessing.active_children() if child not in others]
        self.window: int = self.llm.model_config.max_model_len
        # vLLM adds the end tokens of the model's generation_config; this one belongs to the recipe's chat template.
        self.end_tokens = find_end_ids(self.tokenizer.eos_token_id)

    @staticmethod
    def check(**llm: Any) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise RecipeError(MISSING)
        for key in ("model", "seed", "skip_tokenizer_init"):
            if key in llm:
                raise RecipeError(f"engine.{key}: set by the recipe; remove it here")

    def generate(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int] | None = None,
        done: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        rows = rows if rows is not None else list(range(len(prompts)))
        tokenized = [tokenize_prompt(prompt, self.tokenizer, self.window) for prompt in prompts]
        requests = [(p, i) for p in range(len(prompts)) if not tokenized[p].refused for i in range(n)]
        parameters = [
            self._build_parameters(sampling, derive_seed(sampling.seed, rows[p], i), tokenized[p]) for p, i in requests
        ]
        outputs = self._run([tokenized[p].ids for p, _ in requests], parameters) if requests else []
        completions_PN = [[make_refusal(p.refused)] * n if p.refused else [] for p in tokenized]
        for (p, _), output in zip(requests, outputs, strict=True):
            completions_PN[p].append(self._read_completion(output.outputs[0], tokenized[p].opener, sampling.stop))
        if done:
            completions = [completion for completions_N in completions_PN for completion in completions_N]
            done(len(completions), sum(completion.tokens for completion in completions))
        return completions_PN

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()

    def _run(self, prompts: list[list[int]], parameters: list[Any]) -> list[Any]:
        """vLLM's output for each prompt.

        Raises:
            RecipeError: vLLM died.
        """
        from vllm.exceptions import VLLMServerError

        future: Future[list[Any]] = Future()

        def run() -> None:
            try:
                inputs = [{"prompt_token_ids": ids} for ids in prompts]
                future.set_result(self.llm.generate(inputs, parameters, use_tqdm=False))
            except BaseException as error:
                future.set_exception(error)

        # In a thread, because vLLM waits for ever if its core's process is killed, e.g. for lack of memory.
        threading.Thread(target=run, name="vllm", daemon=True).start()
        try:
            while not wait([future], timeout=1.0).done:
                if not all(core.is_alive() for core in self.cores):
                    raise RuntimeError("its core process has ended")
            return future.result()
        except (RuntimeError, VLLMServerError) as error:
            raise RecipeError(
                f"engine: vLLM died ({type(error).__name__}: {error}); finished files are kept, and the same command "
                "continues"
            ) from error

    def _build_parameters(self, sampling: Sampling, seed: int, prompt: TokenizedPrompt) -> Any:
        import vllm

        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            max_tokens=int(min(sampling.max_tokens, prompt.room)),
            stop=list(sampling.stop),
            stop_token_ids=self.end_tokens,
            seed=seed,
        )

    def _read_completion(self, output: Any, opener: str, stop: tuple[str, ...]) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            raise RecipeError(
                f"engine: vLLM broke a completion off (finish_reason {output.finish_reason!r}); the same command "
                "continues"
            )
        ids = list(output.token_ids)
        text = cut_at_stop(self.tokenizer.decode(ids, skip_special_tokens=True), stop)
        return Completion(opener + text, len(ids), output.finish_reason)
