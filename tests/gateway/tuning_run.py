"""The process of a fine-tuning job's run, without a network: `python tuning_run.py RUN_FOLDER`.

It tells, saves and leaves what the train room does, a step every 10 ms. While the file `hold` lies
in the home it waits at step 3; the file `die` ends it there by SIGKILL, `fail` by an error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import tomllib
from pathlib import Path

from bessemer.app.run_process import main
from bessemer.core.errors import RunFailed
from bessemer.core.runs import RunFolder, StopRequested

COMMAND = (sys.executable, __file__)


def train(run: RunFolder) -> None:
    steps = tomllib.loads(run.recipe.read_text())["steps"]
    saved = run.checkpoints / "saved"
    log = run.open_log()
    done = int(saved.read_text()) if saved.exists() else 0
    log.write(
        "plan", steps=steps, trainable_parameters=10, parameters=100, precision="fp32", threads=1
    )
    if done:
        log.write("resumed", step=done)
    try:
        for step in range(done + 1, steps + 1):
            done = step - 1
            if step == 3:
                _linger(run)
            log.write("step", step=step, loss=4.0 / step, lr=0.1, tokens=100, eta_s=0.0)
            done = step
            time.sleep(0.01)
        log.write("validation", step=steps, loss=0.5)
        _adapter(run.snapshots / f"step-{steps:08d}", steps)
        log.write("snapshot", step=steps)
        _adapter(run.output / "adapter", steps)
    except StopRequested:
        saved.write_text(str(done))
        raise
    finally:
        log.close()


def _linger(run: RunFolder) -> None:
    home = run.path.parents[1]
    while (home / "hold").exists():
        time.sleep(0.01)
    if (home / "die").exists():
        (run.checkpoints / "saved").write_text("2")
        os.kill(os.getpid(), signal.SIGKILL)
    if (home / "fail").exists():
        raise RunFailed("the loss is NaN at step 3")


def _adapter(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": steps}))
    (folder / "adapter_model.safetensors").write_bytes(bytes(8))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), {"train": train}))
