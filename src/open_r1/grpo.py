"""Group relative policy optimization: R1-Zero, and R1's reasoning stages.

What TRL's GRPOTrainer computes under the defaults of config/defaults.py (DeepSeekMath, arXiv 2402.03300, eq. 3-4):

- Sampling: G = `num_generations` = 16 completions of each prompt by the current policy, at temperature 1. Each rollout
  is used once (`num_iterations`), by one optimizer step unless `steps_per_generation` spreads it over several.
- Reward r of a completion: the weighted sum of the recipe's `rewards`.
- Advantage: A = (r - mean(r)) / (std(r) + 1e-4) over the G completions of the prompt, the same for every token.
- Loss of a token: -min(q A, clip(q, 1 - epsilon, 1 + epsilon) A) + beta KL, with q = p / p_old, epsilon = 0.2 and
  beta = 0.001. If a rollout feeds one optimizer step, p_old = p: q is 1 and nothing is clipped. With vLLM, a
  completion is also weighted by its p_old over vLLM's probability of it, and dropped where that ratio exceeds 3.
- KL: exp(d) - d - 1 with d = log p_ref - log p, where p_ref is the initial policy (the "k3" estimator).
- Loss of a batch: the mean over the tokens of each completion, then over completions (`loss_type: grpo`).
- Withheld samples: a verdict `unknown` or `error` gives no reward. The sample is left out of mean(r) and std(r) and
  its advantage is 0, so only the KL term acts on its tokens.
"""

from __future__ import annotations

from accelerate.utils import gather_object
from trl import GRPOTrainer, get_peft_config, get_quantization_config

from open_r1.config.recipe import Recipe
from open_r1.data.contamination import apply_gate
from open_r1.data.presenting import load_datasets, load_eval_datasets
from open_r1.models import build_model_kwargs, load_tokenizer, opens_think, prepare_weights
from open_r1.rewards.scoring import build_rewards
from open_r1.run.lifecycle import finish_training, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.training.callbacks import CompletionTable, run_trainer
from open_r1.training.live_evaluation import LiveEvaluation, load_problems
from open_r1.training.preflight import check_before_training


def main(recipe: Recipe) -> Run:
    run = start_run(recipe)
    tokenizer = load_tokenizer(recipe)
    rows = load_datasets(recipe.data.datasets, "grpo", recipe.data, recipe.args.seed, recipe.run.rewards)
    rows = apply_gate(run, rows, recipe.data.contamination)
    held_out = load_eval_datasets(recipe, recipe.run.rewards)
    problems = load_problems(recipe)
    base = prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = build_model_kwargs(recipe)
    recipe.args.reward_weights = [reward.weight for reward in recipe.run.rewards]
    rewards = build_rewards(
        recipe.run.rewards,
        opens_think=opens_think(next(iter(rows))["prompt"], tokenizer),
        max_tokens=recipe.args.max_completion_length,
        max_error_share=recipe.run.max_error_share,
        records=run.dir,
        gather=gather_object,
    )
    check_before_training(run, rows, rewards, tokenizer)
    trainer = GRPOTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        reward_funcs=rewards,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    table = CompletionTable(trainer, recipe.run.print_every)
    evaluation = LiveEvaluation(problems, trainer, run)
    run_trainer(trainer, run, table, evaluation)
    evaluation.summarize()
    finish_training(run, trainer, tokenizer, base)
    return run


if __name__ == "__main__":
    run_from_command_line(main)
