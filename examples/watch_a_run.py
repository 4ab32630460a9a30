"""Follow a run from its folder, with nothing but the standard library.

    python examples/watch_a_run.py ~/.local/share/bessemer/runs/RUN

A run appends one JSON object a line to events.jsonl. Whoever can read the file can follow it; the
run does not notice, and it does not matter whether a server is up.
"""

import json
import sys
import time
from pathlib import Path

FINAL = ("succeeded", "failed", "cancelled")
events = Path(sys.argv[1]) / "events.jsonl"
offset, state = 0, "queued"

while state not in FINAL:
    data = events.read_bytes()[offset:] if events.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]  # the last line may still be on its way
    offset += len(whole)
    for line in whole.splitlines():
        event = json.loads(line)
        kind = event["kind"]
        if kind == "state":
            state = event["state"]
            print(state, event.get("error", {}).get("message", ""))
        elif kind == "step":
            print(f"step {event['step']}  loss {event['loss']:.3f}  ETA {event['eta_s']:.0f} s")
        elif kind == "validation":
            print(f"validation at step {event['step']}: loss {event['loss']:.3f}")
    time.sleep(0.2)
sys.exit(state != "succeeded")
