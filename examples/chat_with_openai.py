"""Chat with a served model through OpenAI's own client, streaming.

    pip install openai
    BESSEMER_KEY=$(bessemer key create) python examples/chat_with_openai.py "What is a list?"

BESSEMER_URL is the server's API (default http://127.0.0.1:8000/v1), MODEL what answers.
"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ["BESSEMER_KEY"],
)
stream = client.chat.completions.create(
    model=os.environ.get("MODEL", "smollm2-135m-instruct"),
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Who are you?"}],
    max_tokens=100,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n[{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens]")
