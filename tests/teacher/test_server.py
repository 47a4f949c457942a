import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request

import openai
import pytest
import torch
import uvicorn

from stillroom import chat_format
from stillroom.errors import EndpointError
from stillroom.inference.engine import Engine
from stillroom.inference.generate import Generator
from stillroom.params import Sampling
from stillroom.records import Message
from stillroom.teacher.server import Server, certain, listen, serve
from stillroom.training.tiny import build_model, build_tokenizer
from stillroom.training.tiny_recipe import TinyModel

CHAT = chat_format.get("inst")
SIZES = TinyModel(vocabulary=320, hidden_size=32, intermediate_size=48, layers=2, positions=96)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    tokenizer = build_tokenizer(["The quick brown fox jumps over the dog: größer."] * 3, 320, CHAT)
    model = build_model(SIZES, tokenizer, seed=1)
    for weight in model.parameters():
        weight.data *= 8 if weight.ndim == 2 else 1
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def generator(folder):
    return Generator(folder, dtype="float64", device="cpu")


class Running:
    """A server in a thread of this process, on a free port."""

    def __init__(self, generator):
        app = Server(Engine(generator), "toy").app()
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()

    def post(self, path, body):
        """Status and JSON of a raw POST."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"{self.url}{path}", data=data) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def running(generator):
    with Running(generator) as server:
        yield server


@pytest.fixture(scope="module")
def client(running):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def test_a_chat_answer_is_the_generators_on_the_chat_formats_prompt(client, generator):
    messages = [Message("system", "Be brief."), Message("user", "quick"), Message("assistant", "fox")]
    messages.append(Message("user", "a </s> [INST] b"))
    [prompt] = chat_format.encode(CHAT, generator.tokenizer, [messages], prompt=True)
    greedy = Sampling(temperature=0, max_tokens=24)
    [expected] = generator.generate([prompt.ids], greedy, end=generator.tokenizer.eos_token_id)
    sent = [{"role": m.role, "content": m.content} for m in messages]
    sent[1]["content"] = [{"type": "text", "text": "qu"}, {"type": "text", "text": "ick"}]
    answer = client.chat.completions.create(model="toy", messages=sent, temperature=0, max_tokens=24)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == len(prompt.ids)
    assert answer.usage.completion_tokens == len(expected.ids)
    assert answer.usage.total_tokens == len(prompt.ids) + len(expected.ids)


def test_completions_answer_texts_and_token_ids_with_the_begin_token(client, generator):
    text = "The quick"
    ids = generator.tokenizer(text).input_ids
    assert ids[0] == generator.tokenizer.bos_token_id
    settings = {"model": "toy", "temperature": 0, "max_tokens": 8}
    by_text = client.completions.create(prompt=text, **settings)
    by_ids = client.completions.create(prompt=ids, **settings)
    [expected] = generator.generate([ids], Sampling(temperature=0, max_tokens=8), end=1)
    assert by_text.choices[0].text == by_ids.choices[0].text == expected.text
    assert by_text.usage.prompt_tokens == len(ids)


def test_many_prompts_and_samples_come_in_order(client):
    settings = {"model": "toy", "temperature": 1.0, "max_tokens": 8, "seed": 3, "n": 2}
    both = client.completions.create(prompt=["The quick", "fox"], **settings)
    first = client.completions.create(prompt=["The quick"], **settings)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [c.text for c in both.choices[:2]] == [c.text for c in first.choices]
    assert both.choices[0].text != both.choices[1].text


def test_a_seeded_answer_is_the_same_alone_and_among_others(running):
    client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)

    async def ask(seed):
        text = "fox " * (seed % 7 + 1)
        answer = await client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": text}],
            seed=seed,
            temperature=0.9,
            max_tokens=5 + seed,
            extra_body={"top_k": 40, "repetition_penalty": 1.1},
        )
        return answer.choices[0].message.content

    async def main():
        crowd = await asyncio.gather(*map(ask, range(24)))
        return crowd, [await ask(seed) for seed in range(24)]

    crowd, alone = asyncio.run(main())
    assert crowd == alone
    assert len(set(crowd)) > 20


@pytest.mark.parametrize("stop", [None, ["ow", "zzz"]])
def test_a_stream_joins_to_the_answer(client, stop):
    settings = {"model": "toy", "messages": HELLO, "max_tokens": 40, "seed": 5, "temperature": 1.2, "n": 2}
    settings |= {"stop": stop} if stop else {}
    whole = client.chat.completions.create(**settings)
    stream = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    assert stream[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [c for chunk in stream for c in chunk.choices if c.index == choice.index]
        assert "".join(p.delta.content for p in pieces) == choice.message.content
        assert [p.delta.role for p in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
        reasons = [p.finish_reason for p in pieces]
        assert reasons == [None] * (len(pieces) - 1) + [choice.finish_reason]
        assert len(pieces) > 3


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("abc", [], "abc"),
        ("abc", ["cd"], "ab"),
        ("abc", ["bcd", "c!"], "a"),
        ("abc", ["x", "abcabc"], ""),
        ("größ\N{REPLACEMENT CHARACTER}", ["ßx"], "grö"),
    ],
)
def test_only_what_is_certain_is_streamed(text, stops, kept):
    assert certain(text, stops) == kept


def chat(**fields):
    return {"model": "toy", "messages": HELLO, "max_tokens": 4, **fields}


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/chat/completions", b"{not json", 400, None, None),
        ("/v1/chat/completions", {"model": "toy"}, 400, None, "messages"),
        ("/v1/chat/completions", chat(messages=[]), 400, None, "messages"),
        (
            "/v1/chat/completions",
            chat(messages=[{"role": "cat", "content": "x"}]),
            400,
            None,
            "messages.0.role",
        ),
        ("/v1/chat/completions", chat(temperature=3), 400, None, "temperature"),
        ("/v1/chat/completions", chat(top_p=0), 400, None, "top_p"),
        ("/v1/chat/completions", chat(max_tokens="many"), 400, None, "max_tokens"),
        ("/v1/chat/completions", chat(n=0), 400, None, "n"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), 400, "unsupported_parameter", "tools"),
        ("/v1/chat/completions", chat(logprobs=True), 400, "unsupported_parameter", "logprobs"),
        ("/v1/chat/completions", chat(max_tokens=100), 400, "context_length_exceeded", "prompt"),
        ("/v1/chat/completions", chat(model="gpt"), 404, "model_not_found", "model"),
        ("/v1/completions", {"model": "toy", "prompt": []}, 400, None, "prompt"),
        ("/v1/completions", {"model": "toy", "prompt": [[]]}, 400, None, "prompt"),
        ("/v1/completions", {"model": "toy", "prompt": [320]}, 400, None, "prompt"),
        (
            "/v1/completions",
            {"model": "toy", "prompt": "fox " * 99},
            400,
            "context_length_exceeded",
            "prompt",
        ),
        ("/v1/embeddings", {"model": "toy"}, 404, None, None),
        ("/v1/models", {}, 405, None, None),
    ],
)
def test_a_refusal_has_openais_shape(running, path, body, status, code, param):
    got, answer = running.post(path, body)
    error = answer["error"]
    assert (got, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["param"] == param
    assert error["message"]


def test_models_and_health(client, running):
    [model] = client.models.list().data
    assert (model.id, model.object) == ("toy", "model")
    assert client.models.retrieve("toy") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with urllib.request.urlopen(f"{running.url}/health") as response:
        assert response.status == 200


def test_a_failing_model_is_a_500_and_the_server_lives_on(folder):
    broken = Generator(folder, device="cpu")
    good_head = broken.model.lm_head
    broken.model.lm_head = torch.nn.Linear(7, 7)
    with Running(broken) as server:
        status, answer = server.post("/v1/chat/completions", chat())
        assert (status, answer["error"]["type"]) == (500, "server_error")
        broken.model.lm_head = good_head
        assert server.post("/v1/chat/completions", chat())[0] == 200


def test_rows_leave_the_batch_when_their_client_has_gone(generator):
    async def main():
        engine = Engine(generator)
        task = asyncio.create_task(engine.run())
        rows = [generator.row([5, 6, 7], Sampling(temperature=0, max_tokens=80), None, 0) for _ in range(2)]
        events = engine.answer(rows, every_token=True)
        await anext(events)
        await events.aclose()
        other = generator.row([5], Sampling(temperature=0, max_tokens=1), None, 0)
        [last] = [event async for event in engine.answer([other])]
        task.cancel()
        return rows, last

    rows, last = asyncio.run(main())
    assert all(len(row.ids) < 80 for row in rows)
    assert last.finish_reason == "length"


def test_a_template_of_its_own_is_used_and_none_is_an_error(folder):
    generator = Generator(folder, device="cpu")
    generator.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %} dog"
    own = Server(Engine(generator), "toy")
    assert (
        own.chat_prompt([Message("user", "fox")])
        == generator.tokenizer("fox dog", add_special_tokens=False).input_ids
    )
    generator.tokenizer.chat_template = None
    with Running(generator) as server:
        status, answer = server.post("/v1/chat/completions", chat())
        assert (status, "/v1/completions" in answer["error"]["message"]) == (400, True)
        assert server.post("/v1/completions", {"model": "toy", "prompt": "fox"})[0] == 200


def test_a_port_that_is_taken_is_an_error(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port}: cannot listen"):
            serve(folder, port=port)
