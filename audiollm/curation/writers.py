"""Two ways to reach a language model that writes texts: on this machine, and at an OpenAI-compatible address.

    asks ─► LocalWriter     transformers, batches padded on the left     ─┐
         └► EndpointWriter  POST .../v1/chat/completions, several at once ┴─► (ask, Written or Failure), as they come

What is written to an ask does not depend on the asks beside it: a drawn text has the random numbers of its own ask.
Not here: what is asked, what is kept of it, and what is asked only once (generate.py).
Shapes: B asks of a batch, S prompt tokens, V entries of the vocabulary.
"""

import email.utils
import json
import logging
import os
import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from audiollm.data.sources import fingerprint

log = logging.getLogger(__name__)

KEY_VARIABLE = "AUDIOLLM_API_KEY"
TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504, 529})
ABOUT_THE_ASK = frozenset({400, 413, 422})  # other refusals are about the key, the address or the model
LONGEST_WAIT_S = 600.0
LARGEST_REPLY_BYTES = 16 * 2**20
MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and the key under which its result is kept."""

    key: str
    system: str
    user: str
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates and endpoints take them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


class Written(NamedTuple):
    """What the model wrote; the numbers of tokens are None where an endpoint does not tell them."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    truncated: bool = False  # the model would have gone on


class Failure(NamedTuple):
    """Why one ask has no result; it may be asked again another time."""

    cause: str
    others_too: bool = False  # the reason may be the endpoint's, and then all asks will fail


Result = tuple[Ask, Written | Failure]


class Writer(Protocol):
    """What generate.py needs of a language model."""

    name: str
    """As rows tell it."""
    identity: str
    """Stands for the weights: with another one, everything is asked anew."""

    def write(self, asks: Iterable[Ask]) -> Iterator[Result]:
        """A result for each ask, in any order."""
        ...


class EndpointWriter:
    """A language model behind an OpenAI-compatible address, asked several times at once.

    url: http(s)://HOST, .../v1 or .../chat/completions. timeout_s: for one reply, in seconds. retries: further tries
    after 429, 5xx, a broken connection or a broken reply, with a wait that doubles or is what Retry-After says.
    """

    def __init__(
        self, url: str, model: str, *, key: str | None = None, concurrency: int = 8, timeout_s: float = 120.0,
        retries: int = 5, first_wait_s: float = 1.0,
    ) -> None:  # fmt: skip
        self.url = address_of(url)
        self.name = model
        self.identity = model
        self.concurrency, self.timeout_s, self.retries = concurrency, timeout_s, retries
        self.first_wait_s = first_wait_s
        self._key = key
        self._stop = Event()
        self._was_reached = False
        self._opener = urllib.request.build_opener(_NoRedirect)
        if key and self.url.startswith("http://") and urlsplit(self.url).hostname not in ("localhost", "127.0.0.1"):
            log.warning("%s: the key is sent without encryption; https would keep it secret", self.url)

    def write(self, asks: Iterable[Ask]) -> Iterator[Result]:
        """Results as they come; ValueError where the endpoint refuses everything (no such model, a wrong key)."""
        waiting = iter(asks)
        self._stop.clear()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="audiollm-endpoint")
        try:
            running = {pool.submit(self._ask, ask): ask for ask in islice(waiting, self.concurrency)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                finished = [(running.pop(future), future) for future in done]
                refused = next((error for _, f in finished if (error := f.exception()) is not None), None)
                # What was paid for is handed over before a refusal ends the run.
                yield from ((ask, future.result()) for ask, future in finished if future.exception() is None)
                if refused is not None:
                    yield from _last(running)
                    raise refused
                running |= {pool.submit(self._ask, ask): ask for ask in islice(waiting, len(done))}
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _ask(self, ask: Ask) -> Written | Failure:
        """One ask, tried several times."""
        number = 0
        while isinstance(reply := self._try(ask), _Trouble):
            pause = max(self.first_wait_s * 2**number * random.uniform(1.0, 1.25), reply.retry_after_s or 0.0)
            if number == self.retries or pause > LONGEST_WAIT_S or self._stop.wait(pause):
                break
            number += 1
        else:
            return reply
        return Failure(f"{reply.cause}, after {number + 1} {'try' if number == 0 else 'tries'}", others_too=True)

    def _try(self, ask: Ask) -> "Written | Failure | _Trouble":
        headers = {"Content-Type": "application/json", "User-Agent": "audiollm"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, json.dumps(self._body(ask)).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout_s) as reply:
                self._was_reached = True
                return self._read(reply.read(LARGEST_REPLY_BYTES))
        except urllib.error.HTTPError as error:
            self._was_reached = True
            with error:
                return self._refusal(error)
        except (OSError, HTTPException) as error:  # a URLError is an OSError
            reason = getattr(error, "reason", None)
            if isinstance(reason, ConnectionRefusedError | socket.gaierror) and not self._was_reached:
                raise ValueError(
                    f"{self.url} cannot be reached ({reason.strerror}); start the server, or give its --endpoint"
                ) from None
            return _Trouble(self._secret(f"no reply from {self.url} ({reason or repr(error)})"))

    def _body(self, ask: Ask) -> dict[str, Any]:
        drawn = {"seed": ask.seed, "top_p": ask.top_p} if ask.temperature else {}
        return {
            "model": self.name, "messages": ask.messages, "max_tokens": ask.max_new_tokens,
            "temperature": ask.temperature, **drawn,
        }  # fmt: skip

    def _read(self, reply: bytes) -> "Written | _Trouble":
        try:
            data = json.loads(reply)
            choice = data["choices"][0]
            text = self._secret(choice["message"].get("content") or "")
            usage = data.get("usage") or {}
            prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
            return Written(text, prompt, completion, choice.get("finish_reason") == "length")
        except (ValueError, LookupError, TypeError, AttributeError):
            shown = self._secret(reply[:MESSAGE_CHARACTERS].decode(errors="replace"))
            return _Trouble(f"{self.url} replied with what is no chat completion: {shown!r:.120}")

    def _refusal(self, error: urllib.error.HTTPError) -> "Failure | _Trouble":
        """What a status means: try again, leave this ask out, or (ValueError) end."""
        try:
            message = self._secret(_message_of(error.read(LARGEST_REPLY_BYTES)))
        except (OSError, HTTPException):
            message = ""
        cause = f"{self.url} answered with status {error.code}" + (f": {message}" if message else "")
        if error.code in TRY_AGAIN:
            return _Trouble(cause, _seconds(error.headers.get("Retry-After")))
        if error.code in ABOUT_THE_ASK:
            return Failure(cause, others_too=True)
        hints = {401: "check the key", 403: "check the key", 404: "check the address and the model"}
        hint = "give the address that it leads to" if error.code < 400 else hints.get(error.code, "check the address")
        raise ValueError(f"{cause}; {hint}")

    def _secret(self, text: str) -> str:
        """A text without the key, which some servers repeat."""
        return text.replace(self._key, "***") if self._key else text


class _Trouble(NamedTuple):
    """A try that failed and may succeed later."""

    cause: str
    retry_after_s: float | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would send the key on to whatever address the reply names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def address_of(url: str) -> str:
    """The address of chat completions below what the user gave; ValueError for what is no plain http(s) address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--endpoint: {url!r:.80} is no address; give one such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"--endpoint: give the address of {parts.hostname} alone, without a name, a key or a question mark; "
            f"the key is read from the environment variable {KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"


def key_from(variable: str | None) -> str | None:
    """The key in an environment variable; None where none is named and the usual one is not set."""
    key = os.environ.get(variable or KEY_VARIABLE, "").strip()
    if variable and not key:
        raise ValueError(f"--key-from: the environment variable {variable} is not set; set it to the endpoint's key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"the environment variable {variable or KEY_VARIABLE} holds what is no key; set it again")
    return key or None


def _last(running: dict[Future[Written | Failure], Ask]) -> Iterator[Result]:
    """What was asked before a refusal came, and is answered nonetheless; nothing new is begun."""
    for future, ask in running.items():
        if future.exception() is None:
            yield ask, future.result()


def _message_of(body: bytes) -> str:
    """The endpoint's own words in the reply of an error, on one line."""
    text = body.decode(errors="replace")
    try:
        data = json.loads(text)
        error = data.get("error", data)
        text = error if isinstance(error, str) else str(error.get("message") or error.get("detail") or "")
    except (ValueError, AttributeError):
        text = "" if text.lstrip().startswith("<") else text  # a page for people
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]} ..."


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After, as seconds from now: a number, or a date."""
    if retry_after is None:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class LocalWriter:
    """A causal language model of transformers and its tokenizer, which has a chat template."""

    def __init__(self, model: Any, tokenizer: Any, name: str, *, batch_size: int = 16, identity: str = "") -> None:
        if tokenizer.chat_template is None:
            raise ValueError(f"{name} has no chat template; take a model that follows instructions")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name, self.identity, self.batch_size = name, identity or name, batch_size
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._control = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        named = model.generation_config.eos_token_id
        ends = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
        self.ends = sorted({end for end in ends if end is not None})

    def write(self, asks: Iterable[Ask]) -> Iterator[Result]:
        """Results in the order of the asks, a batch at a time."""
        for batch in _batches(asks, self.batch_size):
            prompts = [self._prompt(ask) for ask in batch]
            lengths = [len(ids) for ids in self.tokenizer(prompts, add_special_tokens=False)["input_ids"]]
            window = getattr(self.model.config, "max_position_embeddings", None) or float("inf")
            fits = [length + ask.max_new_tokens <= window for ask, length in zip(batch, lengths, strict=True)]
            for ask, length, fit in zip(batch, lengths, fits, strict=True):
                if not fit:
                    yield ask, Failure(f"{length} tokens and {ask.max_new_tokens} more do not fit into {window}")
            kept = [(ask, prompt) for ask, prompt, fit in zip(batch, prompts, fits, strict=True) if fit]
            if kept:
                yield from self._write([ask for ask, _ in kept], [prompt for _, prompt in kept])

    def _prompt(self, ask: Ask) -> str:
        """The rendered conversation; control tokens in the words are taken apart, so that they stay letters."""
        messages = ask.messages
        for message in messages:
            for token in self._control:
                message["content"] = message["content"].replace(token, f"{token[0]} {token[1:]}")
        try:
            return self._rendered(messages)
        except Exception as error:  # jinja2's, or what the template raises
            if len(messages) == 1:
                raise ValueError(f"{self.name}: its chat template fails: {error}") from error
            joined = "\n\n".join(message["content"] for message in messages)  # Gemma has no system role
            return self._rendered([{"role": "user", "content": joined}])

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        # Qwen3 would think aloud first; templates that do not know the word pass it over.
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    def _write(self, asks: Sequence[Ask], prompts: Sequence[str]) -> Iterator[Result]:
        import torch
        from transformers import LogitsProcessorList

        inputs = self.tokenizer(list(prompts), add_special_tokens=False, padding=True, return_tensors="pt")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        B, S = inputs["input_ids"].shape
        longest = max(ask.max_new_tokens for ask in asks)
        try:
            with torch.inference_mode():
                ids = self.model.generate(
                    **inputs, max_new_tokens=longest, do_sample=False, temperature=1.0, top_p=1.0, top_k=50,
                    eos_token_id=self.ends, pad_token_id=self.tokenizer.pad_token_id,
                    logits_processor=LogitsProcessorList([own_noise(asks)]),
                )  # fmt: skip
        except torch.OutOfMemoryError as error:
            cause = f"{self.model.device} has too little memory for {B} prompts of {S} tokens at once"
            raise ValueError(f"{cause}; use a smaller --batch-size") from error
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        for ask, count, new in zip(asks, counts, ids[:, S:].tolist(), strict=True):
            new = new[: ask.max_new_tokens]
            length = next((index for index, token in enumerate(new) if token in self.ends), len(new))
            text = self.tokenizer.decode(new[:length], skip_special_tokens=True).strip()
            yield ask, Written(text, count, length, truncated=length >= ask.max_new_tokens)


def own_noise(asks: Sequence[Ask]) -> Callable[[Any, Any], Any]:
    """A logits processor after which the largest entry is a draw: each row takes Gumbel noise of its own ask's seed.

    So a text is the same in every batch, which torch.multinomial over a batch would not give. Temperature 0 is greedy.
    """
    import torch
    from transformers import TopPLogitsWarper

    noise = [torch.Generator().manual_seed(ask.seed) for ask in asks]

    def draw(ids: Any, scores_BV: Any) -> Any:
        scores_BV = scores_BV.float()
        for row, ask in enumerate(asks):
            if ask.temperature:
                scores_1V = scores_BV[row : row + 1] / ask.temperature
                if ask.top_p < 1:
                    scores_1V = TopPLogitsWarper(ask.top_p)(ids[row : row + 1], scores_1V)
                waits = torch.empty(scores_1V.shape).exponential_(generator=noise[row]).to(scores_1V.device)
                scores_BV[row] = (scores_1V - waits.log())[0]
        return scores_BV

    return draw


def load_local(
    model: str, *, device: str = "auto", dtype: str = "auto", revision: str | None = None, batch_size: int = 16
) -> LocalWriter:
    """A language model by its name on the Hub, or its folder; ValueError if there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from audiollm.inference import pick_device, pick_dtype

    where = pick_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype=pick_dtype(dtype, where))
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise ValueError(f"--model: {model} cannot be loaded as a language model: {cause}") from error
    folder = Path(model)
    name, identity = model, f"{model} {revision or ''}".strip()
    if folder.is_dir():  # another training may have written other weights under the same name
        name, identity = folder.resolve().name, fingerprint(model)
    return LocalWriter(loaded.to(where), tokenizer, name, batch_size=batch_size, identity=identity)


def _batches(asks: Iterable[Ask], size: int) -> Iterator[list[Ask]]:
    waiting = iter(asks)
    while batch := list(islice(waiting, size)):
        yield batch
