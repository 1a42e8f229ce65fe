"""open_r1.grpo with completions that depend on the prompt and their place in its group, and on nothing else.

Sampling draws from one random stream per process, so a run on two processes never has the completions of a run on one.
"""

from collections import Counter

from trl import GRPOTrainer

from open_r1 import grpo
from open_r1.run import lifecycle


def fixed_completions(self, prompt_ids, images, multimodal_fields, num_generations, **kwargs):
    tokenizer, seen = self.processing_class, Counter()
    completions = []
    for ids in prompt_ids:
        place = seen[tuple(ids)]
        seen[tuple(ids)] += 1
        answer = (sum(ids) + place) % 10
        text = f"<think> a {place} </think> {answer} <eos>" if place % 2 else f"{answer} <eos>"
        completions.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return completions, None


GRPOTrainer._generate_single_turn = fixed_completions

if __name__ == "__main__":
    lifecycle.run_from_command_line(grpo.main)
