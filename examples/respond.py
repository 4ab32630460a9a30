"""The Responses API: a tool's round trip, a stream, and an answer held to a schema.

    pip install openai
    BESSEMER_KEY=$(bessemer key create) python examples/respond.py

BESSEMER_URL is the server's API (default http://127.0.0.1:8000/v1), MODEL what answers.
"""

import json
import os

from openai import OpenAI

url = os.environ.get("BESSEMER_URL", "http://127.0.0.1:8000/v1")
client = OpenAI(base_url=url, api_key=os.environ["BESSEMER_KEY"])
model = os.environ.get("MODEL", "smollm2-135m-instruct")
city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"], "additionalProperties": False}  # fmt: skip

tool = {"type": "function", "name": "get_weather", "parameters": city, "strict": True}
question = "What is the weather in Paris?"
choice = {"type": "function", "name": "get_weather"}
asked = client.responses.create(model=model, input=question, tools=[tool], tool_choice=choice)
(call,) = [item for item in asked.output if item.type == "function_call"]
where = json.loads(call.arguments)["city"]
print(f"calls {call.name} for {where}")
said = f"It is sunny in {where}."
result = {"type": "function_call_output", "call_id": call.call_id, "output": said}

goes_on = {"model": model, "previous_response_id": asked.id, "input": [result]}
with client.responses.stream(**goes_on, max_output_tokens=40) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
        if event.type in ("response.completed", "response.incomplete"):
            print(f"\n[{event.response.usage.total_tokens} tokens]")

text = {"format": {"type": "json_schema", "name": "place", "schema": city, "strict": True}}
print(client.responses.create(model=model, input="Name a city, as JSON.", text=text).output_text)
