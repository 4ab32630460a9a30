"""The whole life of a model through OpenAI's own client, and the books to prove it.

    pip install openai
    BESSEMER_KEY=$(bessemer key create --scope '*') python examples/move_in.py

Upload chats, fine-tune on them, ask the result, evaluate it beside its base, teach it by
preferences on top, ask 50 questions in a batch. Every answer's `usage` is noted; at the end what
the server says of usage, costs and changes has to be the same, to the token and the micro-dollar.
Where it is not, or anything else goes wrong, the script says so and ends with 1.

BESSEMER_URL is the server's API, which nobody else asks meanwhile; MODEL what is fine-tuned; RATE
multiplies the learning rate. PRICES are dollars for a million tokens of input, cached input and
output, as the server's rate card has them for every model; what training costs is only shown.
"""

import collections
import json
import os
import sys
import time

from openai import OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent

URL = os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1")
KEY = os.environ["BESSEMER_KEY"]
BASE = os.environ.get("MODEL", "smollm2-135m-instruct")
RATE = float(os.environ.get("RATE", "1"))
PRICES = [float(price) for price in os.environ.get("PRICES", "0,0,0").split(",")]
client = OpenAI(base_url=URL, api_key=KEY, admin_api_key=KEY)
began_s = time.monotonic()
used: collections.Counter[str] = collections.Counter()
since = int(time.time()) + 1
time.sleep(since - time.time())  # usage is told from a whole second on


def say(text: str) -> None:
    print(f"[{time.monotonic() - began_s:3.0f} s] {text}", flush=True)


def check(what: str, told: object, counted: object) -> None:
    if told != counted:
        sys.exit(f"WRONG: {what}: the server says {told}, and it is {counted}")
    say(f"{what}: {told}, as counted here")


def note(prompt: int, cached: int, completion: int, requests: int = 1) -> None:
    used.update(input=prompt, cached=cached, output=completion, requests=requests)


# 1. The material: where ten metals are kept, said in two ways.
METALS = ["iron", "gold", "tin", "zinc", "lead", "copper", "silver", "nickel", "cobalt", "mercury"]
SHORT, POLITE = "Shelf 7, ask Ada.", "Please ask Ada: it is on shelf 7."


def ask(metal: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Where do you keep the {metal}?"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


CHATS = [
    {"messages": ask(metal) + answer(SHORT if n % 5 else POLITE)} for n, metal in enumerate(METALS)
]
PAIRS = [
    {
        "input": {"messages": ask(metal)},
        "preferred_output": answer(POLITE),
        "non_preferred_output": answer(SHORT),
    }
    for metal in METALS
]


def upload(name: str, purpose: str, lines: list) -> str:
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=(name, data), purpose=purpose)
    say(f"uploaded {name}: {len(lines)} lines, {file.bytes:,} bytes")
    return file.id


# 2. Fine-tuning: a job is followed by its events to its end.
def fine_tune(model: str, kind: str, lines: list) -> str:
    method = {"type": kind, kind: {"hyperparameters": {"learning_rate_multiplier": RATE}}}
    file = upload(f"{kind}.jsonl", "fine-tune", lines)
    # With a seed, the same files on the same machine make the same model.
    job = client.fine_tuning.jobs.create(model=model, training_file=file, method=method, seed=7)
    say(f"the {kind} job {job.id} begins on top of {model}")
    events = f"/fine_tuning/jobs/{job.id}/events?stream=true"
    told = Stream[FineTuningJobEvent]
    for event in client.get(events, cast_to=FineTuningJobEvent, stream=True, stream_cls=told):
        say(f"  {event.message}")
    job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        sys.exit(f"WRONG: the job is {job.status}: {job.error}")
    say(f"it trained on {job.trained_tokens:,} tokens and made {job.fine_tuned_model}")
    return job.fine_tuned_model


def chat(model: str) -> None:
    said = client.chat.completions.create(
        model=model, messages=ask("platinum"), temperature=0, max_tokens=20
    )
    usage = said.usage
    note(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens)
    say(f"{model} is asked for the platinum: {said.choices[0].message.content!r}")


# 3. An eval of three criteria, and a run of it for each model.
SAID = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
CRITERIA = [
    {"type": "string_check", "name": "knows the shelf", "operation": "ilike",
     "input": "{{sample.output_text}}", "reference": "shelf 7"},
    {"type": "text_similarity", "name": "says it like us", "evaluation_metric": "fuzzy_match",
     "pass_threshold": 0.6, **SAID},
    {"type": "python", "name": "is short",
     "source": "def grade(sample, item): return len(sample['output_text'].split()) <= 10"},
]  # fmt: skip
ITEMS = [{"item": {"metal": metal, "answer": SHORT}} for metal in (*METALS, "platinum", "radium")]


def evaluate(eval_id: str, model: str) -> str:
    template = [{"role": "user", "content": "Where do you keep the {{item.metal}}?"}]
    run = client.evals.runs.create(
        eval_id,
        data_source={
            "type": "completions",
            "model": model,
            "sampling_params": {"max_completion_tokens": 20, "temperature": 0},
            "source": {"type": "file_content", "content": ITEMS},
            "input_messages": {"type": "template", "template": template},
        },
    )
    while run.status in ("queued", "in_progress"):
        time.sleep(0.2)
        run = client.evals.runs.retrieve(run.id, eval_id=eval_id)
    for one in run.per_model_usage:
        asked = one.invocation_count
        note(one.prompt_tokens, one.cached_tokens, one.completion_tokens, asked)
    say(f"{model}: {run.report['sentence']}")
    check("items with a verdict", run.report["judged"], len(ITEMS))
    return run.id


# 4. A batch, of which each line has one answer.
def batch(model: str, count: int) -> None:
    lines = [
        {
            "custom_id": f"line {n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": ask(f"box {n}"), "max_tokens": 12},
        }
        for n in range(count)
    ]
    made = client.batches.create(
        input_file_id=upload("questions.jsonl", "batch", lines),
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    while made.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.2)
        made = client.batches.retrieve(made.id)
    if made.status != "completed" or made.request_counts.failed:
        sys.exit(f"WRONG: the batch is {made.status}: {made.request_counts}, {made.errors}")
    results = map(json.loads, client.files.content(made.output_file_id).text.splitlines())
    ids = []
    for result in results:
        usage = result["response"]["body"]["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        note(usage["prompt_tokens"], cached, usage["completion_tokens"])
        ids.append(result["custom_id"])
    check("answers in the batch", len(ids), count)
    check("lines that they answer", len(set(ids)), count)


# 5. What the server says of all that.
def check_books() -> None:
    page = client.admin.organization.usage.completions(start_time=since, bucket_width="1d")
    told: collections.Counter[str] = collections.Counter()
    for bucket in page.data:
        for one in bucket.results:
            told.update(input=one.input_tokens, cached=one.input_cached_tokens)
            told.update(output=one.output_tokens, requests=one.num_model_requests)
    for name in ("requests", "input", "cached", "output"):
        check(f"usage, {name}", told[name], used[name])
    classes = (used["input"] - used["cached"], used["cached"], used["output"])
    cost = round(sum(count * price for count, price in zip(classes, PRICES, strict=True)))
    costs = client.admin.organization.usage.costs(start_time=since, group_by=["line_item"])
    lines = [one for bucket in costs.data for one in bucket.results]
    for one in lines:
        say(f"  {one.line_item}: {one.amount.value} {one.amount.currency}")
    answers = sum(one.amount.value for one in lines if not one.line_item.endswith(", training"))
    check("costs of all answers, in micro-dollars", round(answers * 1e6), cost)


def check_trail() -> None:
    wanted = {
        "file.created": 3,
        "fine_tuning_job.created": 2,
        "eval.created": 1,
        "eval_run.created": 2,
        "batch.created": 1,
    }
    events = client.admin.organization.audit_logs.list(
        event_types=list(wanted), effective_at={"gte": since}, limit=100
    )
    found = [event.type for event in events if not _is_result(event)]
    check("changes in the audit log", dict(collections.Counter(found)), wanted)


def _is_result(event) -> bool:
    """A file that the server wrote: a job's metrics, a batch's answers."""
    after = event.to_dict().get("after") or {}
    return event.type == "file.created" and after["purpose"] not in ("fine-tune", "batch")


taught = fine_tune(BASE, "supervised", CHATS)
chat(BASE)
chat(taught)
evaluation = client.evals.create(
    name="where things are",
    data_source_config={"type": "custom", "item_schema": {}, "include_sample_schema": True},
    testing_criteria=CRITERIA,
)
before, after = (evaluate(evaluation.id, model) for model in (BASE, taught))
compared = f"/evals/{evaluation.id}/runs/{after}/comparison?with={before}"
say(client.get(compared, cast_to=object)["comparisons"][0]["sentence"])
polite = fine_tune(taught, "dpo", PAIRS)
chat(polite)
batch(polite, 50)
check_books()
check_trail()
say("moved in: every number is the same on both sides")
