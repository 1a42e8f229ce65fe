"""A reward model from preference pairs: R1's reward for what no rule can judge.

A head on the last token gives each answer a score s; the loss of a pair is -log sigmoid(s(chosen) - s(rejected)).
"""

from __future__ import annotations

from trl import RewardTrainer, get_peft_config, get_quantization_config

from open_r1.config.recipe import Recipe
from open_r1.data.contamination import apply_gate
from open_r1.data.presenting import load_datasets, load_eval_datasets
from open_r1.models import build_model_kwargs, keep_head_precision, load_tokenizer, prepare_weights
from open_r1.run.lifecycle import finish_training, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.training.callbacks import run_trainer


def main(recipe: Recipe) -> Run:
    run = start_run(recipe)
    tokenizer = load_tokenizer(recipe)
    rows = load_datasets(recipe.data.datasets, "reward", recipe.data, recipe.args.seed)
    rows = apply_gate(run, rows, recipe.data.contamination)
    held_out = load_eval_datasets(recipe)
    base = prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = build_model_kwargs(recipe)
    trainer = RewardTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    keep_head_precision(trainer.model)
    run_trainer(trainer, run)
    finish_training(run, trainer, tokenizer, base)
    return run


if __name__ == "__main__":
    run_from_command_line(main)
