"""Supervised fine-tuning: cold start, the 800k mixture, distillation.

The loss is the cross-entropy of each next token. In conversations only the assistant's tokens count, unless the recipe
sets `assistant_only_loss: false`; in rows of a prompt and a completion, only the completion's.
"""

from __future__ import annotations

from trl import SFTTrainer, get_peft_config, get_quantization_config

from open_r1.config.recipe import Recipe
from open_r1.data.columns import list_columns
from open_r1.data.contamination import apply_gate
from open_r1.data.presenting import load_datasets, load_eval_datasets
from open_r1.models import build_model_kwargs, check_turns_end, load_tokenizer, prepare_weights
from open_r1.run.lifecycle import finish_training, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.training.callbacks import run_trainer


def main(recipe: Recipe) -> Run:
    run = start_run(recipe)
    tokenizer = load_tokenizer(recipe)
    rows = load_datasets(recipe.data.datasets, "sft", recipe.data, recipe.args.seed)
    rows = apply_gate(run, rows, recipe.data.contamination)
    held_out = load_eval_datasets(recipe)
    base = prepare_weights(recipe, tokenizer)
    recipe.args.model_init_kwargs = build_model_kwargs(recipe)
    if "messages" in list_columns(rows):
        check_turns_end(tokenizer)
        if "assistant_only_loss" not in recipe.given:
            # TRL's default trains on the user's words as well.
            recipe.args.assistant_only_loss = True
    trainer = SFTTrainer(
        model=base,
        args=recipe.args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(recipe.model),
        peft_config=get_peft_config(recipe.model),
    )
    run_trainer(trainer, run)
    finish_training(run, trainer, tokenizer, base)
    return run


if __name__ == "__main__":
    run_from_command_line(main)
