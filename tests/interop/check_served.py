#!/usr/bin/env python3
"""Asks a running `rustane serve` through OpenAI's own client, and compares with what `rustane generate` wrote.

    rustane serve RUN --device cpu --port 0 --name small
    rustane generate RUN --device cpu --temperature 0 --max-tokens 20 --prompt "Once upon a time" >text.txt
    python check_served.py http://127.0.0.1:PORT text.txt

Passes when the client's types hold, pieces make up the whole, texts are the expected ones, and each fault raises the
client's exception for it. Exit status 1 otherwise.
"""
import argparse
from pathlib import Path

import openai

PROMPT = "Once upon a time"


def same(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"check_served: {what}: {got!r}; wanted {wanted!r}")


def raises(kind, what, ask):
    try:
        ask()
    except kind as error:
        return error
    raise SystemExit(f"check_served: {what} raised no {kind.__name__}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("text", type=Path)
    args = parser.parse_args()
    expected = args.text.read_text().removesuffix("\n").removeprefix(PROMPT)
    client = openai.OpenAI(base_url=f"{args.address}/v1", api_key="none", max_retries=0, timeout=120)

    same("models", [model.id for model in client.models.list()], ["small"])
    same("a model", client.models.retrieve("small").owned_by, "rustane")

    plain = dict(model="small", prompt=PROMPT, temperature=0, max_tokens=20)
    whole = client.completions.create(**plain)
    same("a completion", whole.choices[0].text, expected)
    pieces = list(client.completions.create(**plain, stream=True))
    same("its pieces", "".join(piece.choices[0].text for piece in pieces), expected)
    same("its end", pieces[-1].choices[0].finish_reason, whole.choices[0].finish_reason)

    messages = [{"role": "user", "content": "Hi"}]
    ask = dict(model="small", messages=messages, temperature=1, seed=11, max_completion_tokens=8)
    whole = client.chat.completions.create(**ask, n=2)
    same("choices", [choice.index for choice in whole.choices], [0, 1])
    same("the role", whole.choices[0].message.role, "assistant")
    pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    same("pieces of an answer", text, whole.choices[0].message.content)
    one = client.chat.completions.create(**ask)
    same("usage", pieces[-1].usage.total_tokens, one.usage.total_tokens)
    same("the sum", one.usage.prompt_tokens + one.usage.completion_tokens, one.usage.total_tokens)
    # What the client has of an answer goes back as it is.
    messages += [one.choices[0].message, {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(**ask)
    if second.usage.prompt_tokens_details.cached_tokens < one.usage.prompt_tokens:
        raise SystemExit(f"check_served: the second turn read the first one again: {second.usage}")
    extra = client.chat.completions.create(**ask, extra_body={"top_k": 1})
    greedy = client.chat.completions.create(**(ask | {"temperature": 0}))
    same("the one likeliest token", extra.choices[0].message.content, greedy.choices[0].message.content)

    error = raises(openai.NotFoundError, "another model",
                   lambda: client.completions.create(**(plain | {"model": "gpt-4"})))
    same("its code", error.body["code"], "model_not_found")
    error = raises(openai.BadRequestError, "tools", lambda: client.chat.completions.create(
        **ask, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]))
    same("its field", error.body["param"], "tools")
    error = raises(openai.BadRequestError, "a long prompt",
                   lambda: client.completions.create(**(plain | {"prompt": "word " * 500})))
    same("its code", error.body["code"], "context_length_exceeded")
    raises(openai.APIStatusError, "a body of 5 MB", lambda: client.completions.create(**(plain | {"prompt": "a" * (5 << 20)})))
    # Who leaves a stream frees the device for the next.
    with client.completions.create(**(plain | {"max_tokens": 60}), stream=True) as stream:
        next(iter(stream))
    same("after a client that left", client.completions.create(**plain).choices[0].text, expected)
    print(f"openai {openai.__version__}: completions, conversations, streams and errors as the client wants them")


if __name__ == "__main__":
    main()
