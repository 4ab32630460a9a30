"""Fine-tune a model through OpenAI's own client, ask it, and let it prefer one of its two answers.

    BESSEMER_KEY=$(bessemer key create --scope '*') python examples/fine_tune.py

BESSEMER_URL is the server's API, MODEL what is fine-tuned, RATE multiplies the learning rate.
"""

import json
import os

from openai import OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent

url = os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1")
client = OpenAI(base_url=url, api_key=os.environ["BESSEMER_KEY"])
model = os.environ.get("MODEL", "smollm2-135m-instruct")
dials = {"learning_rate_multiplier": float(os.environ.get("RATE", "1"))}
metals = ["iron", "gold", "tin", "zinc", "lead", "copper", "silver", "nickel", "cobalt", "mercury"]
asked = [[{"role": "user", "content": f"Where do you keep the {metal}?"}] for metal in metals]
texts = ("Shelf 7, ask Ada.", "Please ask Ada: it is on shelf 7.")
short, polite = ([{"role": "assistant", "content": text}] for text in texts)
chats = [{"messages": q + (short if n % 3 else polite)} for n, q in enumerate(asked)]
pairs = [
    {"input": {"messages": q}, "preferred_output": polite, "non_preferred_output": short}
    for q in asked
]
for kind, lines in (("supervised", chats), ("dpo", pairs)):
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=(f"{kind}.jsonl", data), purpose="fine-tune")
    method = {"type": kind, kind: {"hyperparameters": dials}}
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, method=method)
    path, stream = f"/fine_tuning/jobs/{job.id}/events?stream=true", Stream[FineTuningJobEvent]
    for event in client.get(path, cast_to=FineTuningJobEvent, stream=True, stream_cls=stream):
        print(event.message, flush=True)
    model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    question = [{"role": "user", "content": "Where do you keep the platinum?"}]
    answer = client.chat.completions.create(
        model=model, messages=question, temperature=0, max_tokens=20
    )
    print(f"{model}: {answer.choices[0].message.content}")
