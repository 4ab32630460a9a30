"""What to say of a run whose process is gone without a last word: it was killed, and perhaps why.

The run's last beat says how much memory it had and how often the kernel had killed in its control
group; if it has killed there since, or memory was nearly used up, that is the reason given, with
the change that fits. Otherwise nobody knows: a person, a scheduler, a power cut.
"""

from __future__ import annotations

from pathlib import Path

from bessemer.core.errors import BessemerError, OutOfMemory, RunFailed
from bessemer.core.memory import Memory, oom_kills
from bessemer.core.recipes import load
from bessemer.core.runs import RunFolder


def epitaph(run: RunFolder) -> RunFailed:
    """The error of a dead run: OutOfMemory with the numbers and what to change, or RunFailed."""
    process, memory = run.process(), run.last_memory()
    who = f"its process (pid {process.pid})" if process else "its process"
    resume = f"bessemer train --resume {run.run_id}"
    if memory is None:
        return RunFailed(f"{who} ended without a last word", next_step=resume)
    if _killed_since(memory):
        said = f"out of memory: the kernel killed {who}; it last had {memory}"
    elif memory.nearly_full:
        said = f"{who} was killed, probably for want of memory: it last had {memory}"
    else:
        said = f"{who} was killed: it ended without a last word; it last had {memory}"
        return RunFailed(said, next_step=resume)
    change = _change(run)
    next_step = f"{change}; with more memory: {resume}" if change else resume
    return OutOfMemory(said, next_step=next_step)


def _killed_since(memory: Memory) -> bool:
    if memory.group is None or memory.oom_kills is None:
        return False
    now = oom_kills(Path(memory.group))
    return now is not None and now > memory.oom_kills


def _change(run: RunFolder) -> str | None:
    from bessemer.core.train_recipe import TrainRecipe
    from bessemer.train.memory import advice

    resolved = run.path / "resolved.toml"
    try:
        if run.plan().get("kind") != "train":
            return None
        path = resolved if resolved.exists() else run.recipe
        return advice(load(path, TrainRecipe).recipe)
    except (OSError, ValueError, BessemerError):
        return None  # a run of another version, or a broken folder: the numbers are still told
