"""Direct preference optimisation: the human-preference part of R1's last phase."""

from __future__ import annotations

from trl import DPOTrainer, get_peft_config, get_quantization_config

from open_r1 import models
from open_r1.config.recipe import Recipe
from open_r1.data import contamination, presenting
from open_r1.run import lifecycle
from open_r1.run.run import Run
from open_r1.training import callbacks


def main(recipe: Recipe) -> Run:
    this = lifecycle.start_run(recipe)
    tokenizer = models.load_tokenizer(recipe)
    rows = presenting.load_datasets(recipe.data.datasets, "dpo", recipe.data, recipe.args.seed)
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    held_out = presenting.load_eval_datasets(recipe)
    base = models.prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = models.build_model_kwargs(recipe)
    trainer = DPOTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    callbacks.run_trainer(trainer, this)
    lifecycle.finish_training(this, trainer, tokenizer, base)
    return this


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
