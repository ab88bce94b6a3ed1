"""Rows by a language model: asked once, the same however it was stopped, filtered and counted; no key is told."""

import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tiny import LLM, tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from audiollm.curation import generate as module
from audiollm.curation.generate import generate, list_in, load_template, templates
from audiollm.curation.leaks import leaks
from audiollm.curation.writers import Ask, EndpointWriter, Failure, LocalWriter, address_of, key_from, load_local
from audiollm.data.sources import load_rows

KEY = "sk-very-secret-0123456789"
CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "leaks.jsonl").read_text().splitlines()]
PAIRS = [
    {"question": "Which animal is heard?", "answer": "A dog."},
    {"question": "How often does it bark?", "answer": "It barks twice."},
]
USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


def row(number: int, **changes) -> dict:
    """A row about a recording of its own; `description` and `transcript` go to its clip."""
    clip = {"type": "audio", "audio": f"{number}.wav", "description": f"A dog barks {number} times."}
    clip |= {name: changes.pop(name) for name in ("description", "transcript") if name in changes}
    content = [{k: v for k, v in clip.items() if v is not None}, {"type": "text", "text": f"What is number {number}?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Nothing."}]
    about = {"id": f"r{number}", "source": "set", "source_id": f"{number}.wav", "license": "mit", "task": "aqa"}
    return {**about, "messages": messages, **changes}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Stub:
    """A server in a thread; `script(body, number)` is (status, headers, what is sent) for the n-th request, from 1."""

    def __init__(self, script=None) -> None:
        self.script = script or (lambda body, number: chat(PAIRS))
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        stub, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    stub.bodies.append(body)
                    stub.keys.append(self.headers.get("Authorization"))
                    status, headers, content = stub.script(body, len(stub.bodies))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def writer(self, **options) -> EndpointWriter:
        return EndpointWriter(self.url, "stub-model", **{"first_wait_s": 0.001, "concurrency": 2, **options})


def chat(content, usage=USAGE, finish="stop") -> tuple[int, dict, bytes]:
    """A reply as OpenAI has it, with a text or what becomes JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    data = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    return 200, {}, json.dumps(data | ({"usage": usage} if usage else {})).encode()


def error(status: int, message: str = "not now", **headers) -> tuple[int, dict, bytes]:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


@pytest.fixture
def serve():
    """Starts stubs, and ends them."""
    stubs = []

    def start(script=None) -> Stub:
        stubs.append(Stub(script))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.server.shutdown()
        stub.server.server_close()


def of_number(body: dict, number: int):
    """Pairs that depend on the recording asked about, so that a mixed-up result shows."""
    words = body["messages"][-1]["content"].split("barks ")[1].split(" ")[0]
    return chat([{"question": f"How many barks ({question})?", "answer": f"{words}."} for question in "ab"])


def local(batch_size: int = 4, vocabulary: int = 300) -> LocalWriter:
    torch.manual_seed(0)
    words = tokenizer()
    config = Qwen3Config(**LLM, vocab_size=max(vocabulary, len(words)), eos_token_id=words.eos_token_id)
    return LocalWriter(Qwen3ForCausalLM(config), words, "tiny", batch_size=batch_size)


# ---- rows ----


def test_a_row_is_about_the_same_clip_and_tells_where_its_words_come_from(tmp_path, serve):
    source = write(tmp_path / "rows.jsonl", [row(1)])
    stub = serve()
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer())
    first, second = load_rows(tmp_path / "new.jsonl", strict=True)
    [old] = load_rows(source)
    assert first.clips == old.clips
    assert (first.source, first.source_id, first.license, first.task) == ("set", "1.wav", "mit", "aqa")
    assert (first.question, first.target) == ("Which animal is heard?", "A dog.")
    assert first.extra["generated"]["template"] == "sound_questions"
    assert first.extra["generated"]["model"] == "stub-model" and len(first.extra["generated"]["hash"]) == 64
    assert first.id != second.id and result.rows == 2


def test_all_rows_about_a_recording_say_what_is_known_of_it(tmp_path, serve):
    def answered(answer, task):
        one = row(1, description=None, task=task)
        one["messages"][1]["content"] = answer
        return one

    rows = [answered("A hound.", "caption"), answered("Good day.", "asr"), answered("Secret.", "aqa")]
    stub = serve()
    generate(write(tmp_path / "rows.jsonl", rows), tmp_path / "new.jsonl", "sound_questions", stub.writer())
    [body] = stub.bodies
    assert "heard: A hound." in body["messages"][1]["content"]
    assert "spoken: Good day." in body["messages"][1]["content"] and "Secret" not in json.dumps(body)


def test_what_cannot_be_asked_about_is_counted_and_named(tmp_path, serve):
    two = row(3)
    two["messages"][0]["content"].append({"type": "audio", "audio": "b.wav"})
    rows = [row(1), row(2, description=None), two]
    source = write(tmp_path / "rows.jsonl", rows)
    Path(source).write_text(Path(source).read_text() + "{broken\n")
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", serve().writer())
    assert result.dropped == {module.NO_WORDS: 1, module.NOT_ONE_CLIP: 1} and result.problems.count == 1
    named = read(tmp_path / "new.jsonl.cache" / "dropped.jsonl")
    assert {line["origin"].rpartition(":")[2] for line in named} == {"2", "3"}


def test_words_with_braces_are_not_filled_in_and_lines_about_nothing_are_left_out():
    values = {"description": "a {count} b", "transcript": "", "count": "5"}
    text = 'Heard: {description}\nSpoken: {transcript}\n{"json": {count}}'
    assert module.filled(text, values) == 'Heard: a {count} b\n{"json": 5}'


# ---- targets ----


def test_a_target_is_the_models_own_greedy_answer_to_the_rows_question(tmp_path, serve):
    rows = [row(1, references=["Nothing!"], answer="Nothing.", choices=["Nothing.", "All."])]
    stub = serve(lambda body, number: chat("It is a dog."))
    generate(write(tmp_path / "rows.jsonl", rows), tmp_path / "new.jsonl", "targets", stub.writer())
    [new] = load_rows(tmp_path / "new.jsonl", strict=True)
    [body] = stub.bodies
    assert body["temperature"] == 0 and body["messages"][-1]["content"].endswith("What is number 1?")
    assert (new.question, new.target, new.task) == ("What is number 1?", "It is a dog.", "instruct")
    assert not new.references and not new.choices and new.answer is None


def test_a_batch_of_local_targets_is_the_targets_one_by_one(tmp_path):
    source = write(tmp_path / "rows.jsonl", [row(n, description="bell " * n) for n in range(1, 8)])
    template = tmp_path / "short.yaml"
    template.write_text("mode: targets\ntask: t\nuser: '{description} {question}'\nmax_new_tokens: 12\n")
    for size in (1, 5):
        with pytest.raises(ValueError, match="cut off"):  # random weights hardly ever end an answer
            generate(source, tmp_path / f"{size}.jsonl", str(template), local(size))
    one, many = (read(tmp_path / f"{size}.jsonl.cache" / "results.jsonl") for size in (1, 5))
    assert one == many and len(one) == 7 and len({line["text"] for line in one}) > 1
    assert all(line["completion_tokens"] == 12 for line in one)


def test_a_target_that_was_cut_off_is_dropped(tmp_path, serve):
    stub = serve(lambda body, number: chat("It is", finish="length" if number == 1 else "stop"))
    source = write(tmp_path / "rows.jsonl", [row(1), row(2)])
    result = generate(source, tmp_path / "new.jsonl", "targets", stub.writer(concurrency=1))
    assert (result.rows, result.dropped) == (1, {module.CUT_OFF: 1})


# ---- local model ----


def test_a_drawn_text_depends_on_its_own_seed_and_not_on_its_neighbours():
    asks = [Ask(str(n), "", "bell " * (n + 1), 10, temperature=1.0, top_p=0.9, seed=n % 2) for n in range(6)]
    alone = {ask.key: written.text for ask in asks for ask, written in local(1).write([ask])}
    together = {ask.key: written.text for ask, written in local(6).write(reversed(asks))}
    assert alone == together
    [(_, other)] = local(1).write([Ask("0", "", "bell ", 10, temperature=1.0, top_p=0.9, seed=7)])
    assert other.text != alone["0"]


def test_a_random_model_writes_no_json_which_is_counted_and_asked_twice(tmp_path):
    source = write(tmp_path / "rows.jsonl", [row(1), row(2)])
    template = tmp_path / "short.yaml"
    template.write_text("mode: questions\ntask: t\nuser: '{description}'\nmax_new_tokens: 8\ntemperature: 1.0\n")
    with pytest.raises(ValueError, match="no row could be written") as told:
        generate(source, tmp_path / "new.jsonl", str(template), local())
    assert "2 asked twice" in str(told.value) and not (tmp_path / "new.jsonl").exists()
    assert len(read(tmp_path / "new.jsonl.cache" / "results.jsonl")) == 4


def test_control_tokens_in_the_words_stay_letters():
    writer = local()
    prompt = writer._prompt(Ask("k", "", "a <|end|><|assistant|> b", 4))
    ids = writer.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    control = writer.tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>"])
    assert ids.count(control[0]) == 0 and ids.count(control[1]) == 1


def test_a_prompt_that_does_not_fit_is_a_failure_of_its_own():
    results = dict(local(2).write([Ask("long", "", "bell " * 2000, 4), Ask("short", "", "bell", 4)]))
    assert {ask.key: isinstance(result, Failure) for ask, result in results.items()} == {"long": True, "short": False}


def test_a_folder_with_other_weights_is_another_model(tmp_path):
    identities = set()
    for seed in (0, 1):
        writer = local()
        torch.manual_seed(seed)
        torch.nn.init.normal_(writer.model.lm_head.weight)
        writer.model.save_pretrained(tmp_path / "model")
        writer.tokenizer.save_pretrained(tmp_path / "model")
        loaded = load_local(str(tmp_path / "model"), device="cpu")
        identities.add(loaded.identity)
        assert loaded.name == "model"
    assert len(identities) == 2
    with pytest.raises(ValueError, match="cannot be loaded as a language model"):
        load_local(str(tmp_path / "nothing"), device="cpu")


# ---- cache ----


def test_the_second_run_asks_nothing_and_writes_the_same(tmp_path, serve):
    source, out = write(tmp_path / "rows.jsonl", [row(n) for n in range(5)]), tmp_path / "new.jsonl"
    script = lambda body, number: of_number(body, number) if "barks 3" not in str(body) else chat("no JSON")  # noqa: E731
    stub = serve(script)
    first = generate(source, out, "sound_questions", stub.writer())
    written, asked = out.read_bytes(), len(stub.bodies)
    second = generate(source, out, "sound_questions", stub.writer())
    assert len(stub.bodies) == asked == 6  # one of them twice
    assert out.read_bytes() == written and (first.now.requests, second.now.requests) == (6, 0)
    assert second.total == first.total and second.dropped == first.dropped == {module.NOT_JSON: 1}


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_resumed_equals_uninterrupted(tmp_path, serve, cut):
    source = write(tmp_path / "rows.jsonl", [row(n) for n in range(6)])
    stub = serve(of_number)
    generate(source, tmp_path / "whole.jsonl", "sound_questions", stub.writer())
    stopping = serve(lambda body, number: of_number(body, number) if number <= 3 else error(403, "no credit left"))
    out = tmp_path / "new.jsonl"
    with pytest.raises(ValueError, match="status 403: no credit left"):
        generate(source, out, "sound_questions", stopping.writer(concurrency=1))
    results = tmp_path / "new.jsonl.cache" / "results.jsonl"
    results.write_bytes(results.read_bytes()[: -cut or None])  # the process was killed while it wrote
    stub.bodies.clear()
    generate(source, out, "sound_questions", stub.writer())
    assert len(stub.bodies) == 3 + (cut > 1)  # without its last byte a line is whole
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    generate(source, out, "sound_questions", stub.writer())
    assert len(stub.bodies) == 3 + (cut > 1)


@pytest.mark.parametrize("change", [{"seed": 1}, {"count": 3}, {"words": "A cat."}, {"model": "other"}])
def test_what_a_result_depends_on_is_asked_anew(tmp_path, serve, change):
    stub, out = serve(), tmp_path / "new.jsonl"
    generate(write(tmp_path / "rows.jsonl", [row(1)]), out, "sound_questions", stub.writer())
    source = write(tmp_path / "rows.jsonl", [row(1, description=change.pop("words", "A dog barks 1 times."))])
    writer = EndpointWriter(stub.url, change.pop("model", "stub-model"))
    generate(source, out, "sound_questions", writer, **change)
    assert len(stub.bodies) == 2


def test_recordings_of_the_same_words_are_asked_about_once(tmp_path, serve):
    stub = serve()
    source = write(tmp_path / "rows.jsonl", [row(n, description="A dog barks.") for n in range(3)])
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer())
    assert len(stub.bodies) == 1 and result.rows == 6 and result.total.requests == 1


def test_two_runs_do_not_write_into_one_cache(tmp_path, serve):
    with module.open_cache(tmp_path / "new.jsonl.cache"), pytest.raises(ValueError, match="another run"):
        generate(write(tmp_path / "r.jsonl", [row(1)]), tmp_path / "new.jsonl", "sound_questions", serve().writer())


def test_the_limit_bounds_what_is_asked(tmp_path, serve):
    stub = serve(of_number)
    source = write(tmp_path / "rows.jsonl", [row(n) for n in range(5)])
    assert generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer(), limit=2).units == 2
    assert len(stub.bodies) == 2


# ---- endpoint ----


@pytest.mark.parametrize("trouble", [
    error(429, **{"Retry-After": "0"}), error(500), error(503), (200, {}, b"<html>"), (200, {}, b'{"choices": []}'),
])  # fmt: skip
def test_trouble_that_passes_costs_a_further_try(tmp_path, serve, trouble):
    stub = serve(lambda body, number: trouble if number < 3 else chat(PAIRS))
    source = write(tmp_path / "rows.jsonl", [row(1)])
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer(concurrency=1))
    assert len(stub.bodies) == 3 and result.rows == 2


def test_retry_after_is_waited_for(serve, monkeypatch):
    stub = serve(lambda body, number: error(429, **{"Retry-After": "7"}) if number == 1 else chat("ok"))
    writer, waits = stub.writer(), []
    monkeypatch.setattr(writer._stop, "wait", lambda seconds: waits.append(seconds))
    [(_, written)] = writer.write([Ask("k", "", "u", 5)])
    assert written.text == "ok" and waits == [7.0]


def test_a_request_that_fails_leaves_its_recording_out_and_is_asked_again_later(tmp_path, serve):
    bad = True
    stub = serve(lambda body, number: error(400, "too long") if bad and "barks 1" in str(body) else of_number(body, 0))
    source, out = write(tmp_path / "rows.jsonl", [row(n) for n in range(3)]), tmp_path / "new.jsonl"
    result = generate(source, out, "sound_questions", stub.writer())
    assert result.dropped == {module.NO_RESULT: 1}
    assert "status 400: too long" in read(tmp_path / "new.jsonl.cache" / "dropped.jsonl")[0]["detail"]
    bad = False
    assert generate(source, out, "sound_questions", stub.writer()).rows == 6 and len(stub.bodies) == 4


def test_an_endpoint_that_is_down_ends_the_run_in_one_sentence(tmp_path, serve):
    stub = serve(lambda body, number: error(500, "out of memory"))
    source = write(tmp_path / "rows.jsonl", [row(n) for n in range(30)])
    with pytest.raises(ValueError, match=r"5 requests in a row failed, the last: .* status 500: out of memory"):
        generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer(retries=1))
    assert len(stub.bodies) < 20


def test_an_endpoint_where_nobody_listens_is_told_at_once_with_address_and_cause(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        source = write(tmp_path / "rows.jsonl", [row(1)])
        with pytest.raises(ValueError, match=rf"^{url}/v1/chat/completions cannot be reached \(Connection refused\)"):
            generate(
                source, tmp_path / "new.jsonl", "sound_questions", EndpointWriter(url, "m", first_wait_s=60, retries=1)
            )


def test_where_nothing_is_known_or_answered_the_way_out_is_told(tmp_path, serve):
    source = write(tmp_path / "rows.jsonl", [row(1, description=None)])
    with pytest.raises(ValueError, match=r"write `description` or `transcript` into .*\bcaption\b") as told:
        generate(source, tmp_path / "new.jsonl", "sound_questions", serve().writer())
    assert str(tmp_path / "new.jsonl.cache" / "dropped.jsonl") in str(told.value)
    stub = serve(lambda body, number: error(500, "out of memory"))
    source = write(tmp_path / "rows.jsonl", [row(1)])
    with pytest.raises(ValueError, match=rf"the first request that failed: {stub.url}/.* status 500: out of memory"):
        generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer(retries=0))


def test_never_more_requests_at_once_than_allowed(serve):
    running, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3, timeout=10)
    writer = EndpointWriter(serve().url, "m", concurrency=3)

    def tried(ask):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1
        return Failure("x")

    writer._ask = tried
    assert len(list(writer.write(Ask(str(n), "", "u", 5) for n in range(9)))) == 9
    assert most == 3


def test_tokens_are_counted_and_priced(tmp_path, serve):
    source = write(tmp_path / "rows.jsonl", [row(n) for n in range(4)])
    stub = serve(lambda body, number: chat(PAIRS, usage=USAGE if number > 1 else None))
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer(concurrency=1))
    assert (result.now.requests, result.now.prompt_tokens, result.now.completion_tokens) == (4, 300, 60)
    assert result.now.untold == 1
    assert result.now.price(10.0, 100.0) == pytest.approx(0.009)
    assert "at least 0.0090" in result.summary((10.0, 100.0))


def test_the_key_is_sent_and_told_nowhere(tmp_path, serve, monkeypatch, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")

    def echo(body, number):
        if number == 1:
            return error(429, f"slow down, {KEY}")
        if number == 2:
            return chat([{"question": f"Is it {KEY}?", "answer": f"No, {KEY} it is not."}])
        return error(400 if number == 3 else 401, f"Incorrect API key provided: {KEY}")

    stub, out = serve(echo), tmp_path / "new.jsonl"
    source = write(tmp_path / "rows.jsonl", [row(n) for n in range(3)])
    writer = stub.writer(key=key_from("MY_KEY"), concurrency=1)
    with pytest.raises(ValueError, match="check the key") as refused:
        generate(source, out, "sound_questions", writer)
    result = generate(source, out, "sound_questions", writer, limit=1)
    assert result.rows == 1 and stub.keys[0] == f"Bearer {KEY}"
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    told = f"{refused.value!r} {result.summary()} {caplog.text} {capsys.readouterr()} {writer!r}"
    assert KEY.encode() not in files and KEY not in told


def test_a_key_that_is_none_is_refused_without_telling_it(monkeypatch):
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(ValueError, match="MY_KEY holds what is no key") as refused:
        key_from("MY_KEY")
    assert KEY not in str(refused.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ValueError, match="MY_KEY is not set"):
        key_from("MY_KEY")


def test_a_redirect_does_not_carry_the_key_elsewhere(tmp_path, serve):
    other = serve()
    stub = serve(lambda body, number: (302, {"Location": f"{other.url}/v1/chat/completions"}, b""))
    with pytest.raises(ValueError, match="status 302"):
        list(stub.writer(key=KEY).write([Ask("k", "", "u", 5)]))
    assert not other.keys


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/v1", "localhost:8000", "http://me:pw@host/v1",
                                 "https://host/v1?key=abc", ""])  # fmt: skip
def test_only_plain_addresses_are_opened(url):
    with pytest.raises(ValueError, match="--endpoint") as refused:
        address_of(url)
    assert "pw" not in str(refused.value).replace("passwd", "") and "abc" not in str(refused.value)


def test_an_address_is_completed():
    whole = "http://h:1/v1/chat/completions"
    assert {address_of(url) for url in ("http://h:1", "http://h:1/v1/", whole)} == {whole}


# ---- what the model wrote ----


@pytest.mark.parametrize("text", [
    '[{"question": "a"}]', '```json\n[{"question": "a"}]\n```', 'Sure [1]:\n[{"question": "a"}] Done.',
    '{"pairs": [{"question": "a"}]}', '<think>[{"no": 1}]</think>[{"question": "a"}]',
])  # fmt: skip
def test_a_list_is_found(text):
    assert list_in(text) == [{"question": "a"}]


@pytest.mark.parametrize("text", ["", "Sorry.", '[{"question": "a"}, {"questi', '{"question": "a"}', "[1, 2]",
                                  '[{"x": [{"question": "a"}]}, {"x"'])  # fmt: skip
def test_what_is_no_list_of_objects_is_none(text):
    assert list_in(text) is None


def test_bad_pairs_are_dropped_each_by_its_reason(tmp_path, serve):
    pairs = [
        *PAIRS,
        {"question": "which animal is HEARD", "answer": "One more dog."},
        {"question": "Is it a small dog that barks?", "answer": "A small dog."},
        {"question": "What is it?", "answer": " "},
        {"question": "Why?", "answer": "word " * 41},
        {"question": "Where is it?", "answer": "The description does not say."},
        {"question": "What does the caption mention?", "answer": "Rain."},
        {"question": "Only this"},
        {"question": "Third?", "answer": "Yes."},
        {"question": "Fourth?", "answer": "No."},
    ]
    source = write(tmp_path / "rows.jsonl", [row(1)])
    result = generate(
        source, tmp_path / "new.jsonl", "sound_questions", serve(lambda b, n: chat(pairs)).writer(), count=3
    )
    assert result.dropped == {
        module.DUPLICATE: 1, module.GIVES_ANSWER: 1, module.EMPTY: 1, module.TOO_LONG: 1, module.LEAK: 2,
        module.NO_FIELDS: 1, module.TOO_MANY: 1,
    }  # fmt: skip
    assert [one["messages"][1]["content"][0]["text"] for one in read(tmp_path / "new.jsonl")] == [
        "A dog.", "It barks twice.", "Yes.",
    ]  # fmt: skip
    assert len(read(tmp_path / "new.jsonl.cache" / "dropped.jsonl")) == 8


def test_a_text_that_is_no_json_gets_one_further_chance(tmp_path, serve):
    stub = serve(lambda body, number: chat("Here you are.") if number == 1 else chat(PAIRS))
    source = write(tmp_path / "rows.jsonl", [row(1)])
    result = generate(source, tmp_path / "new.jsonl", "sound_questions", stub.writer())
    assert (result.rows, result.retried, len(stub.bodies), sum(result.dropped.values())) == (2, 1, 2, 0)
    assert stub.bodies[0]["seed"] != stub.bodies[1]["seed"]


@pytest.mark.parametrize("half", ["dev", "held_out"])
def test_leaks_are_told_from_what_speakers_do(half):
    cases = [case for case in CASES if case["half"] == half]
    found = [case for case in cases if leaks(case["text"])]
    right = sum(case["leak"] for case in found)
    assert right / len(found) >= 0.95
    assert right / sum(case["leak"] for case in cases) >= 0.95


# ---- templates ----


def test_every_packaged_template_loads_and_says_what_it_is():
    assert {"sound_questions", "speech_questions", "targets"} <= templates().keys()
    for name, path in templates().items():
        assert load_template(name) and path.read_text().startswith("# ")


@pytest.mark.parametrize(("text", "told"), [
    ("mode: questions\ntask: t\nuser: '{descripton}'\n", "did you mean 'description'"),
    ("mode: questions\ntask: t\nuser: hello\n", "neither"),
    ("mode: question\ntask: t\nuser: '{description}'\n", "mode"),
    ("mode: targets\ntask: t\nuser: '{description}'\n", "lacks {question}"),
    ("mode: questions\ntask: t\nuser: '{description}'\nfields: [{name: question}]\n", "lacks answer"),
    ("mode: questions\ntask: t\nuser: '{description}'\nmax_words: 3\n", "max_words is not a setting"),
    ("- a\n", "is a mapping"), ("a: [\n", "no YAML"),
])  # fmt: skip
def test_what_is_wrong_with_a_template_is_said_in_a_sentence(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml: ") as refused:
        load_template(str(tmp_path / "mine.yaml"))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_the_output_is_never_one_of_the_inputs(tmp_path, serve):
    source = write(tmp_path / "rows.jsonl", [row(1)])
    before = Path(source).read_bytes()
    with pytest.raises(ValueError, match="is one of the files that are read"):
        generate(str(tmp_path / "*.jsonl"), tmp_path / "rows.jsonl", "sound_questions", serve().writer())
    assert Path(source).read_bytes() == before
