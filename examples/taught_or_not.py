"""Ask a model and the same model after teaching the same question, and show both answers.

    BESSEMER_KEY=$(bessemer key create) python examples/taught_or_not.py

BESSEMER_URL is the server's API; BASE and TAUGHT name the two models. One question proves
nothing: `bessemer eval BASE TAUGHT` asks many and gives an interval.
"""

import os
import sys

from openai import OpenAI

BASE = os.environ.get("BASE", "smollm2-135m-instruct")
TAUGHT = os.environ.get("TAUGHT", "smollm2-135m-instruct-python-docs")
question = " ".join(sys.argv[1:]) or "What does the Python function os.path.join do?"

client = OpenAI(
    base_url=os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ["BESSEMER_KEY"],
)
print(f"question: {question}")
for model in (BASE, TAUGHT):
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,  # the likeliest token each time: the same answer at every call
        max_tokens=100,
    )
    print(f"\n{model}:\n{answer.choices[0].message.content}")
