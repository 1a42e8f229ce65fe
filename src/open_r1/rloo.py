"""Reinforcement learning by REINFORCE leave-one-out: a sample is held against the mean reward of its siblings."""

from __future__ import annotations

from accelerate.utils import gather_object
from trl import RLOOTrainer, get_peft_config, get_quantization_config

from open_r1 import models
from open_r1.config.recipe import Recipe
from open_r1.data import contamination, presenting
from open_r1.rewards import scoring
from open_r1.run import lifecycle
from open_r1.run.run import Run
from open_r1.training import callbacks, live_evaluation, preflight


def main(recipe: Recipe) -> Run:
    this = lifecycle.start_run(recipe)
    tokenizer = models.load_tokenizer(recipe)
    rows = presenting.load_datasets(recipe.data.datasets, "rloo", recipe.data, recipe.args.seed, recipe.run.rewards)
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    held_out = presenting.load_eval_datasets(recipe, recipe.run.rewards)
    problems = live_evaluation.load_problems(recipe)
    base = models.prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = models.build_model_kwargs(recipe)
    recipe.args.reward_weights = [reward.weight for reward in recipe.run.rewards]
    judges = scoring.build_rewards(
        recipe.run.rewards,
        opens_think=models.opens_think(next(iter(rows))["prompt"], tokenizer),
        max_tokens=recipe.args.max_completion_length,
        max_error_share=recipe.run.max_error_share,
        records=this.dir,
        gather=gather_object,
    )
    preflight.check_before_training(this, rows, judges, tokenizer)
    trainer = RLOOTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        reward_funcs=judges,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    more = [callbacks.CompletionFiles(trainer, this), callbacks.CompletionTable(trainer, recipe.run.print_every)]
    judge = live_evaluation.Evaluator(problems, trainer, this) if problems else None
    if judge:
        more.append(callbacks.LiveEvaluation(judge.record, judge.settings.every, resumed=this.checkpoint is not None))
    callbacks.run_trainer(trainer, this, *more)
    if judge:
        judge.summarize()
    lifecycle.finish_training(this, trainer, tokenizer, base)
    return this


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
