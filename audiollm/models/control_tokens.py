"""Control tokens that people type stay letters: only the chat template writes `<|im_end|>`, `</s>` or `<|audio|>`.

A text without typed control tokens is encoded by the tokenizer as it is. Typed ones are marked (') before the template
runs. A text with marks is encoded by a copy of the tokenizer that knows each control token by another name (^), which
those that the template wrote are given, and nobody can type:

    rendered       <|im_start|>user What does <'|'i'm'_'e'n'd'|'>' mean?<|im_end|>
    for the copy  ^<|im_start|>user What does <|im_end|> mean?^<|im_end|>

Not here: what is rendered (models/rendering.py).
"""

import json
import re
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

AUDIO_TOKEN = "<|audio|>"

# Private-use characters, removed from what people write: one follows each character of a typed control token, the other
# comes before a control token's name in the copy.
MARK, HIDDEN = "\U000f0000", "\U000f0001"
NO_MARKS = str.maketrans({MARK: None, HIDDEN: None})


class ControlTokens:
    """The control tokens of one tokenizer under one chat template, and the encoding that keeps typed ones apart.

    Control tokens are the special tokens, and the other added tokens that the template writes (`<think>`,
    `<tool_call>`); the latter a model may write itself, so in an assistant's message they keep their ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str, audio_token: str = AUDIO_TOKEN) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; load one that has a tokenizer.json")
        self.tokenizer = tokenizer
        self.audio_token = audio_token
        added = [token for token in tokenizer.added_tokens_decoder.values() if not token.content.isspace()]
        special = {audio_token, *(token.content for token in added if token.special)}
        self.names = frozenset(special | {token.content for token in added if token.content in chat_template})
        self._typed_by_people = any_of(self.names)
        self._typed_by_model = any_of(special)
        self.written = re.compile(f"({any_of(self.names).pattern})(?!{MARK})")

    def mark(self, text: str, *, by_model: bool = False) -> str:
        """The text with every control token in it marked as letters."""
        pattern = self._typed_by_model if by_model else self._typed_by_people
        return pattern.sub(lambda match: "".join(c + MARK for c in match[0]), text.translate(NO_MARKS))

    def encode(self, text: str) -> list[int]:
        """Ids of a text that may hold marks; without marks they are the tokenizer's own."""
        if MARK not in text:
            return ids_of(self._plain, text)
        return self._encode_marked(text)

    def _encode_marked(self, text: str) -> list[int]:
        hidden = self.written.sub(HIDDEN + r"\1", text).replace(MARK, "")
        return ids_of(self._copy, hidden)

    def encode_after(self, context: str, text: str) -> list[int]:
        """Ids of `text` as it stands after `context`, where no token spans the boundary."""
        before = self.encode(context)
        ids = self.encode(context + text)
        if ids[: len(before)] == before:
            return ids[len(before) :]
        return self.encode_after(self.audio_token, text)  # a control token never merges with what follows

    @cached_property
    def _plain(self) -> Tokenizer:
        """The same tokenizer without the checks of each call, which take longer than the encoding."""
        plain = Tokenizer.from_str(json.dumps(self._state()))
        plain.encode_special_tokens = self.tokenizer.backend_tokenizer.encode_special_tokens
        return plain

    @cached_property
    def _copy(self) -> Tokenizer:
        """The same tokenizer, in which every control token has a name that nobody can type."""
        state = self._state()
        for token in state["added_tokens"]:
            token["content"] = self._hidden(token["content"])
        self._hide_in_vocabulary(state["model"])
        return Tokenizer.from_str(json.dumps(state))

    def _state(self) -> dict[str, Any]:
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return dict(state | {"padding": None, "truncation": None})

    def _hide_in_vocabulary(self, model: dict[str, Any]) -> None:
        """Unigram finds any piece of its vocabulary in a text, BPE any that its merges make, control tokens too."""
        if isinstance(model["vocab"], dict):
            model["vocab"] = {self._hidden(piece): index for piece, index in model["vocab"].items()}
        else:
            model["vocab"] = [[self._hidden(piece), score] for piece, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in self.names]
        if model.get("unk_token"):
            model["unk_token"] = self._hidden(model["unk_token"])

    def _hidden(self, name: str) -> str:
        return HIDDEN + name if name in self.names else name


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text; where each came from in the text is not asked for, which is quicker."""
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def any_of(names: frozenset[str] | set[str]) -> re.Pattern[str]:
    """Matches any of the names, the longest first."""
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name))))
