"""OpenAI's own client for Python, as it is on PyPI, against a running server: python3 openai_client.py http://localhost:7860"""

import os
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=os.environ.get("CASALLM_API_KEY", "none"), max_retries=0)
model = client.models.list().data[0].id
assert client.models.retrieve(model).object == "model"

messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]}]
settings = dict(model=model, messages=messages, temperature=0, max_completion_tokens=12, seed=1)
whole = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
assert whole.choices[0].message.role == "assistant"
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in whole.choices[0].logprobs.content)

text, usage = "", None
for chunk in client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    usage = chunk.usage or usage
assert text == whole.choices[0].message.content, (text, whole)
assert usage.completion_tokens == whole.usage.completion_tokens
assert usage.prompt_tokens_details.cached_tokens > 0

# This helper takes an answer that ends by its length for an error.
with client.chat.completions.stream(**settings, stop=["a", "e", "i", "o", " "]) as stream:
    assert text.startswith(stream.get_final_completion().choices[0].message.content)

completion = client.completions.create(model=model, prompt="Once upon", max_tokens=4, temperature=0, logprobs=1, stop=["zzz"])
assert completion.object == "text_completion"


def refused(kind, param, **changes):
    try:
        client.chat.completions.create(**{**settings, **changes})
    except kind as error:
        assert error.param == param, error
    else:
        raise AssertionError(f"{changes} was not refused")


refused(openai.NotFoundError, "model", model="gpt-4o")
refused(openai.BadRequestError, "temperature", temperature=9)
refused(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
refused(openai.BadRequestError, "response_format", response_format={"type": "json_object"})

stream = client.chat.completions.create(**{**settings, "max_completion_tokens": 1000}, stream=True)
next(iter(stream))
stream.close()
print(f"pip openai {openai.__version__}: ok ({model}: {text!r})")
