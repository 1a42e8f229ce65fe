"""A reward model from preferences: R1's reward for what no rule can judge."""

from __future__ import annotations

from trl import RewardTrainer, get_peft_config, get_quantization_config

from . import models
from .config.recipe import Recipe
from .data import contamination, presenting
from .run import lifecycle
from .run.run import Run
from .training import callbacks


def main(recipe: Recipe) -> Run:
    this = lifecycle.start_run(recipe)
    tokenizer = models.load_tokenizer(recipe)
    rows = presenting.load_datasets(recipe.data.datasets, "reward", recipe.data, recipe.args.seed)
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    held_out = presenting.load_eval_datasets(recipe)
    base = models.prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = models.build_model_kwargs(recipe)
    trainer = RewardTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    models.keep_head_precision(trainer.model)
    callbacks.run_trainer(trainer, this)
    lifecycle.finish_training(this, trainer, tokenizer, base)
    return this


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
