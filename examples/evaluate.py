"""Evaluate two served models by three criteria, through OpenAI's own client.

    export BESSEMER_KEY=$(bessemer key create --scope chat --scope evals:read --scope evals:write)
    BASE=smollm2-135m-instruct TAUGHT=smollm2-135m-instruct-python-docs python examples/evaluate.py

BESSEMER_URL is the server's API (default http://127.0.0.1:8000/v1)."""

import os
import time

from openai import OpenAI

url = os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1")
client = OpenAI(base_url=url, api_key=os.environ["BESSEMER_KEY"])
BOTH = {"input": "{{sample.output_text}}", "reference": "{{item.name}}"}
PYTHON = "def grade(sample, item): return len(sample['output_text'].split()) <= 40"
evaluation = client.evals.create(
    name="names of functions",
    data_source_config={"type": "custom", "item_schema": {}, "include_sample_schema": True},
    testing_criteria=[
        {"type": "string_check", "name": "has the name", "operation": "ilike", **BOTH},
        {"type": "text_similarity", "name": "says little else", **BOTH,
         "evaluation_metric": "fuzzy_match", "pass_threshold": 0.5},
        {"type": "python", "name": "is short", "source": PYTHON},
    ],
)  # fmt: skip
asked = (("len", "the length of a list"), ("sorted", "a sorted copy"), ("abs", "the size of x"))
rows = [{"item": {"name": name, "does": does}} for name, does in asked]
ask = [{"role": "user", "content": "Which Python function gives {{item.does}}?"}]
for model in (os.environ["BASE"], os.environ["TAUGHT"]):
    run = client.evals.runs.create(evaluation.id, data_source={
        "type": "completions", "model": model, "sampling_params": {"max_completion_tokens": 40},
        "source": {"type": "file_content", "content": rows},
        "input_messages": {"type": "template", "template": ask}})  # fmt: skip
    while run.status in ("queued", "in_progress"):
        time.sleep(0.2)
        run = client.evals.runs.retrieve(run.id, eval_id=evaluation.id)
    for found in run.per_testing_criteria_results or []:
        print(f"{model}: {found.testing_criteria}: {found.passed} of {len(rows)}")
    print(f"{model}: {run.report['sentence']}")
