"""How often is the default model right before it learns? It decides whether rewards teach anything.

    python benchmarks/first_rewards.py [--prompts 64] [--samples 4]

Samples answers to the validation prompts of `arithmetic` at temperature 1 (through transformers)
and judges them by their last number. Printed: the mean reward, the share of prompts whose samples
differ in it (only those have a gradient in GRPO), tokens an answer, and the mean of each kind.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bessemer.app.catalog import DEFAULT_MODEL
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.data import arithmetic
from bessemer.data.dataset import Dataset
from bessemer.text.answers import is_same, last_number

LONGEST = 24  # tokens of an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    asked = parser.parse_args()
    with Platform.open() as platform:
        folder = pull(platform, platform.local_principal(), DEFAULT_MODEL).path
    with tempfile.TemporaryDirectory() as scratch:
        arithmetic.build(Path(scratch) / "made")
        prompts = list(Dataset.open(Path(scratch) / "made").prompts("validation"))[: asked.prompts]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    torch.manual_seed(0)
    texts = [
        tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    written = model.generate(
        **ids,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LONGEST,
        num_return_sequences=asked.samples,
    )[:, ids["input_ids"].shape[1] :]
    rewards, by_kind, lengths = [], defaultdict(list), []
    for number, row in enumerate(written):
        prompt = prompts[number // asked.samples]
        said = last_number(tokenizer.decode(row, skip_special_tokens=True))
        right = said is not None and is_same(said, prompt.item["answer"], folded=False)
        rewards.append(float(right))
        by_kind[str(prompt.kind)].append(float(right))
        lengths.append(int((row != tokenizer.pad_token_id).sum()) + 1)
    groups = [rewards[i : i + asked.samples] for i in range(0, len(rewards), asked.samples)]
    mixed = sum(0 < sum(group) < asked.samples for group in groups) / len(groups)
    print(f"{len(prompts)} prompts, {asked.samples} samples each, temperature 1")
    print(f"mean reward {statistics.mean(rewards):.3f}; prompts with both outcomes {mixed:.0%}")
    print(f"tokens an answer {statistics.mean(min(n, LONGEST) for n in lengths):.1f}")
    for kind in arithmetic.KINDS:
        if kind in by_kind:
            print(f"  {kind:<8} {statistics.mean(by_kind[kind]):.2f}")


if __name__ == "__main__":
    main()
