"""From messages to token ids by the language model's own chat template: one renderer for training, evaluation and chat.

    messages ─► template ─► text ─► prompt ids, in which one <|audio|> becomes as many as its clip needs
                                    answer ids and the end of turn follow, tokenised on their own

So the prompt of training is the prompt of generation, no token spans the boundary, and only what the model must write
is supervised.

Not here: sound and padding (models/processing.py), how long audio is (models/lengths.py), how control tokens that
people type stay letters (models/control_tokens.py).
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from audiollm.conversation import AudioPart, Message
from audiollm.models.control_tokens import AUDIO_TOKEN, MARK, ControlTokens

# A prompt must not change from day to day: templates that print the date get the one that Llama's own falls back to.
FIXED_DATE = datetime.date(2024, 7, 26)

# For small models trained from scratch; their tokenizer holds <|system|>, <|user|>, <|assistant|> and <|end|>.
DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message.role + '|>' + message.content }}{{ '<|end|>' if message.role == 'assistant' }}"
    "{%- endfor -%}"
    "{{ '<|assistant|>' if add_generation_prompt }}"
)

SENTINEL = "ANSWERPLACE"
REMEMBERED = 20_000  # prompts or answers; some megabytes


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training sequence: ids, which of them are supervised, and how many of the conversation's clips it holds."""

    input_ids: list[int]
    supervised: list[bool]
    num_clips: int


class Piece(NamedTuple):
    """A stretch of a rendered sequence, as people read it."""

    text: str
    """The tokens in words; of a run of audio tokens, one."""
    kind: Literal["text", "control", "audio"]
    supervised: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What the template writes around an assistant's words."""

    opening: str  # white space between the prompt and the answer (Mistral: one space)
    end: tuple[int, ...]  # ids of the end of turn
    strips: bool  # the template takes white space off the answer


class Renderer:
    """A tokenizer and a chat template. It never changes once made, so copies of it are the object itself."""

    between = "\n"
    """What stands between the parts of a message."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str, audio_token: str = AUDIO_TOKEN) -> None:
        self.tokenizer = tokenizer
        self.audio_token = audio_token
        self.template = without_todays_date(chat_template)
        self.control = ControlTokens(tokenizer, chat_template, audio_token)
        self.audio_token_id = tokenizer.get_vocab()[audio_token]
        self._added_ids = frozenset(tokenizer.added_tokens_decoder)
        self._turns: dict[str, Turn] = {}
        self._prompts: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._answers: dict[tuple[str, str], tuple[int, ...]] = {}
        self._takes_system: bool | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Renderer":
        return self

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool, **template_kwargs: Any) -> str:
        """The rendered conversation with one <|audio|> a clip, and marks in typed control tokens."""
        written = [{"role": message.role, "content": self._content(message)} for message in messages]
        if not self._template_takes_system():
            written = system_in_first_question(written)
        return self._apply(written, add_generation_prompt=add_generation_prompt, **template_kwargs)

    def prompt_ids(
        self, messages: Sequence[Message], audio_lengths: Sequence[int], **template_kwargs: Any
    ) -> list[int]:
        """Ids that generation sees; the k-th clip takes `audio_lengths[k]` of them."""
        return expand(self._prompt(messages, **template_kwargs), self.audio_token_id, audio_lengths)

    def _prompt(self, messages: Sequence[Message], **template_kwargs: Any) -> Sequence[int]:
        """Ids with one placeholder a clip; remembered, since the same few questions are asked about many clips."""
        key = (repr(template_kwargs), *((message.role, self._content(message)) for message in messages))
        if key not in self._prompts:
            forget(self._prompts)
            text = self.text(messages, add_generation_prompt=True, **template_kwargs)
            self._prompts[key] = tuple(self.control.encode(text))
        return self._prompts[key]

    def answer_ids(self, answer: str, prompt_ids: Sequence[int], **template_kwargs: Any) -> list[int]:
        """Ids of an answer after its prompt, with the end of turn."""
        turn = self.turn(**template_kwargs)
        words = turn.opening + (answer.strip() if turn.strips else answer)
        context = self.audio_token if prompt_ids[-1] in self._added_ids else "\n"
        if (context, words) not in self._answers:
            forget(self._answers)
            ids = self.control.encode_after(context, self.control.mark(words, by_model=True))
            self._answers[context, words] = tuple(ids)
        return [*self._answers[context, words], *turn.end]

    def render(
        self, messages: Sequence[Message], audio_lengths: Sequence[int], *, supervise: str, **template_kwargs: Any
    ) -> list[Rendered]:
        """Training sequences for the supervised turns: one for all of them, if the template leaves history as it was.

        A template that rewrites history (Qwen3 takes out earlier thoughts, Mistral moves the system text) shows a later
        turn another past than the one that was learned; such a turn gets a sequence of its own.
        """
        sequences: list[Rendered] = []
        for index in supervised_turns(messages, supervise):
            num_clips = sum(len(message.clips) for message in messages[:index])
            prompt = self.prompt_ids(messages[:index], audio_lengths[:num_clips], **template_kwargs)
            answer = self.answer_ids(messages[index].text, prompt, **template_kwargs)
            supervised: list[bool] = []
            if sequences and prompt[: len(sequences[-1].input_ids)] == sequences[-1].input_ids:
                supervised = sequences.pop().supervised
            supervised = supervised + [False] * (len(prompt) - len(supervised)) + [True] * len(answer)
            sequences.append(Rendered(prompt + answer, supervised, num_clips))
        return sequences

    def pieces(self, input_ids: Sequence[int], supervised: Sequence[bool]) -> list[Piece]:
        """A sequence in words: each control token, each run of audio tokens, and the text between them."""
        vocabulary = self.tokenizer.get_vocab()
        control = {vocabulary[name] for name in self.control.names}

        def kind_of(place: int) -> tuple[Literal["text", "control", "audio"], bool, int]:
            if input_ids[place] == self.audio_token_id:
                return "audio", supervised[place], 0
            return (
                ("control", supervised[place], place) if input_ids[place] in control else ("text", supervised[place], 0)
            )

        pieces = []
        for (kind, is_supervised, _), places in groupby(range(len(input_ids)), kind_of):
            ids = [input_ids[place] for place in places]
            pieces.append(Piece(self._decoded(ids[:1] if kind == "audio" else ids), kind, is_supervised, len(ids)))
        return pieces

    def _decoded(self, ids: Sequence[int]) -> str:
        """Ids in words as they stand within a sequence: at its beginning some decoders take a space away."""
        before, whole = (
            self.tokenizer.decode(read, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for read in ([self.audio_token_id], [self.audio_token_id, *ids])
        )
        return str(whole)[len(before) :]

    def turn(self, **template_kwargs: Any) -> Turn:
        """What the template writes around an answer, read off a conversation with a known one."""
        key = repr(sorted(template_kwargs.items()))
        if key not in self._turns:
            self._turns[key] = self._find_turn(**template_kwargs)
        return self._turns[key]

    def _find_turn(self, **template_kwargs: Any) -> Turn:
        question = {"role": "user", "content": "?"}
        answer = {"role": "assistant", "content": f"\t{SENTINEL}\t"}  # tabs: no template writes them itself
        prompt = self._apply([question], add_generation_prompt=True, **template_kwargs)
        whole = self._apply([question, answer], add_generation_prompt=False, **template_kwargs)
        strips = answer["content"] not in whole
        before, found, after = whole.partition(SENTINEL if strips else answer["content"])
        if not found:
            raise ValueError("the chat template leaves out the assistant's answer, so nothing can be learned with it")
        opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
        return Turn(opening if opening.isspace() else "", self._end_of_turn(after), strips)

    def _end_of_turn(self, after: str) -> tuple[int, ...]:
        """Ids of what follows an answer, up to and including the first control token; else the eos token."""
        first = self.control.written.search(after)
        if first:
            return tuple(self.control.encode_after("\n", after[: first.end()]))
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "the chat template ends an answer without a special token and the tokenizer has no eos_token; set one"
            )
        return (self.tokenizer.eos_token_id,)

    def _content(self, message: Message) -> str:
        by_model = message.role == "assistant"
        return self.between.join(
            self.audio_token if isinstance(part, AudioPart) else self.control.mark(part.text, by_model=by_model)
            for part in message.content
        )

    def _template_takes_system(self) -> bool:
        """Some templates refuse a system message, others leave it out: found by trying, once."""
        if self._takes_system is None:
            trial = [{"role": "system", "content": SENTINEL}, {"role": "user", "content": "?"}]
            try:
                self._takes_system = SENTINEL in self._apply(trial, add_generation_prompt=True)
            except ValueError:
                self._takes_system = False
        return self._takes_system

    def _apply(self, messages: list[dict[str, str]], *, add_generation_prompt: bool, **template_kwargs: Any) -> str:
        if "date_string" in self.template:
            template_kwargs.setdefault("date_string", FIXED_DATE.strftime("%d %b %Y"))
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **template_kwargs,
                )
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"the model's chat template refuses a conversation of {roles}: {error}") from error


def forget(remembered: dict[Any, Any]) -> None:
    """Empty a memory that is full."""
    if len(remembered) >= REMEMBERED:
        remembered.clear()


def supervised_turns(messages: Sequence[Message], supervise: str) -> list[int]:
    """Indices of the assistant messages that are learned: the last one or all, without those marked `loss: false`."""
    if supervise not in ("last", "all"):
        raise ValueError(f"supervise={supervise!r}; it must be 'last' or 'all'")
    if not messages or messages[-1].role != "assistant":
        raise ValueError("a conversation to learn from must end with the assistant's answer")
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    return [index for index in (turns if supervise == "all" else turns[-1:]) if messages[index].loss]


def expand(ids: Sequence[int], audio_token_id: int, audio_lengths: Sequence[int]) -> list[int]:
    """Repeat the k-th placeholder `audio_lengths[k]` times."""
    num_placeholders = ids.count(audio_token_id)
    if num_placeholders != len(audio_lengths):
        raise ValueError(
            f"the prompt has {num_placeholders} audio placeholders, but {len(audio_lengths)} clips were given; "
            "give the clips of all messages, in their order"
        )
    lengths = iter(audio_lengths)
    expanded: list[int] = []
    for token in ids:
        expanded += [token] * next(lengths) if token == audio_token_id else [token]
    return expanded


def system_in_first_question(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """For templates without a system role: its text stands before the first question, after it an empty line."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        raise ValueError("this model's chat template has no system role, and no user message follows to carry its text")
    question = {"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}
    return [question, *rest[1:]]


def without_todays_date(chat_template: str) -> str:
    """The template with `strftime_now("...")` replaced by the fixed date in that form."""
    call = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
    return call.sub(lambda match: match[1] + FIXED_DATE.strftime(match[2]) + match[1], chat_template)


def without_marks(text: str) -> str:
    """The text as people read it."""
    return text.replace(MARK, "")


def check_template_kwargs(chat_template: str, template_kwargs: Mapping[str, Any]) -> None:
    """A setting that the template never mentions would be ignored in silence."""
    for name in template_kwargs:
        if name not in chat_template:
            raise ValueError(f"chat_template_kwargs.{name} is not a setting of this model's chat template; remove it")
