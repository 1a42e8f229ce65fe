"""REINFORCE leave-one-out (arXiv 2402.14740): each completion is compared with the mean reward of its siblings.

Sampling and rewards are those of grpo.py. What TRL's RLOOTrainer computes otherwise:

- Reward: r - beta * KL, where KL is the sum of log p_old - log p_ref over the completion's tokens (the "k1"
  estimator), with beta = 0.001. No gradient flows through it.
- Advantage: the reward minus the mean reward of the other completions of the prompt, without a standard deviation.
- Loss of a completion: -min(q A, clip(q, 1 - epsilon, 1 + epsilon) A), with q = p / p_old of the whole completion and
  epsilon = 0.2; then the mean over completions.
- Withheld samples are left out of their siblings' means and have the advantage 0: they have no influence.
"""

from __future__ import annotations

from accelerate.utils import gather_object
from trl import RLOOTrainer, get_peft_config, get_quantization_config

from open_r1.config.recipe import Recipe
from open_r1.data.contamination import apply_gate
from open_r1.data.presenting import load_datasets, load_eval_datasets
from open_r1.models import build_model_kwargs, load_tokenizer, opens_think, prepare_weights
from open_r1.rewards.scoring import build_rewards
from open_r1.run.lifecycle import finish_training, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.training.callbacks import CompletionFiles, CompletionTable, run_trainer
from open_r1.training.live_evaluation import LiveEvaluation, load_problems
from open_r1.training.preflight import check_before_training


def main(recipe: Recipe) -> Run:
    run = start_run(recipe)
    tokenizer = load_tokenizer(recipe)
    rows = load_datasets(recipe.data.datasets, "rloo", recipe.data, recipe.args.seed, recipe.run.rewards)
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
    trainer = RLOOTrainer(
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
    run_trainer(trainer, run, CompletionFiles(trainer, run), table, evaluation)
    evaluation.summarize()
    finish_training(run, trainer, tokenizer, base)
    return run


if __name__ == "__main__":
    run_from_command_line(main)
