"""One greedy answer of the network being trained, to show it. Serving is `inference`'s work."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch

from bessemer.core.events import EventLog
from bessemer.core.train_recipe import TrainRecipe
from bessemer.train.attention import BlockAttention
from bessemer.train.opening import Schedule
from bessemer.train.task import Network


def write_sample(
    log: EventLog, step: int, decoder: Network, schedule: Schedule, recipe: TrainRecipe
) -> None:
    """Let the network continue a prompt of its validation data, for people to read."""
    task = schedule.tasks[0]
    prompt, count = list(task.prompt), recipe.evaluation.sample_tokens
    if not prompt or not count:
        return
    answer = greedy(decoder, prompt, count, task.tokenizer.eos_ids)
    decode = task.tokenizer.decode
    log.write("sample", step=step, prompt=decode(prompt), text=decode(answer))


@torch.no_grad()
def greedy(decoder: Network, prompt: Sequence[int], count: int, stop: Container[int]) -> list[int]:
    """At most `count` ids after `prompt`, the likeliest each time, up to one of `stop`.

    Each token costs a whole forward pass: there is no cache here.
    """
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        attend = BlockAttention([len(ids)], decoder.head_weight.dtype, decoder.layer_windows)
        hidden_TD = decoder(torch.tensor(ids), torch.arange(len(ids)), attend)
        next_id = int(decoder.logits(hidden_TD[-1:])[0].argmax())
        if next_id in stop:
            break
        ids.append(next_id)
    return ids[len(prompt) :]
