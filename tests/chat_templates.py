"""Chat templates of public model families, written out in their public form, each with a tiny tokenizer of its kind.

The tokenizers are trained here in milliseconds: byte-level BPE (Qwen, Llama 3, Phi-3), and three ways in which
SentencePiece tokenizers treat the start of a text (Mistral: a space before the first word; earlier, and in Llama 2:
after every special token; Gemma: none), once as Unigram, whose vocabulary holds its special tokens.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from audiollm.models.rendering import DEFAULT_CHAT_TEMPLATE
from audiollm.models.tokenizer import train_tokenizer

CHATML = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN3 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == 'user' %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') }}
            {{- '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

LLAMA3_TODAY = LLAMA3.replace("date_string", "today")  # a date that no argument can set

MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content']|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set loop_messages = messages[1:] %}
    {%- set system_message = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{%- else %}
    {%- set loop_messages = messages %}
    {%- set system_message = '' %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (system_message if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' '  + message['content'].strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

VICUNA = """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{ 'USER: ' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}{{ ' ASSISTANT: ' + message['content'] + '\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"""

PHI3 = """\
{%- for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

SENTENCES = [
    "What do you hear in this recording? A dog barks twice, then a bell rings and somebody says good morning.",
    "You are a helpful assistant. Answer in one word. How many birds are singing? Two birds are singing.",
    "system user assistant model Cutting Knowledge Date December 2023 Today Date 26 Jul 2024 USER: ASSISTANT:",
    "Is there a siren? No, I hear rain.\nWho speaks? A woman speaks.\n\nname the sound: thunder, wind, im_end, audio",
]


@dataclass(frozen=True)
class Family:
    """One way to write a conversation, its tokenizer, and what is expected of them."""

    name: str
    template: str
    make_tokenizer: Callable[[], PreTrainedTokenizerFast]
    end_of_turn: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    takes_system: bool = True
    opening: str = ""  # white space that the template writes before an answer

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = self.make_tokenizer()
        tokenizer.chat_template = self.template
        return tokenizer


def byte_level(
    special: Sequence[str], added: Sequence[str] = (), *, rstrip: bool = False, **names: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as in Qwen and Llama 3; with `rstrip` special tokens swallow the white space after them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return with_added_tokens(tokenizer, special, added, rstrip=rstrip, **names)


def sentencepiece(
    special: Sequence[str], added: Sequence[str] = (), *, start: str = "first", unigram: bool = False, **names: str
) -> PreTrainedTokenizerFast:
    """Spaces as ▁. `start`: the extra one stands before the "first" word, after "every" special token, or "never"."""
    tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE(byte_fallback=True, unk_token="<unk>"))
    if start == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    elif start == "every":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    strip = [decoders.Strip(" ", 1, 0)] if start != "never" else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    options: dict[str, Any] = {"special_tokens": ["<unk>", *special], "show_progress": False}
    if unigram:
        trainer: Any = trainers.UnigramTrainer(vocab_size=220, unk_token="<unk>", **options)
    else:
        trainer = trainers.BpeTrainer(vocab_size=250, **options)
    words = [" " + word for sentence in SENTENCES for word in sentence.split(" ")]
    tokenizer.train_from_iterator([*words, *"\n<>[]|/_"], trainer)
    if not unigram:
        tokenizer = with_byte_pieces(tokenizer)
    return with_added_tokens(tokenizer, special, added, unk_token="<unk>", **names)


def with_byte_pieces(tokenizer: Tokenizer) -> Tokenizer:
    """SentencePiece's 256 pieces for characters that it has never seen."""
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    return Tokenizer.from_str(json.dumps(state))


def with_added_tokens(
    tokenizer: Tokenizer, special: Sequence[str], added: Sequence[str], *, rstrip: bool = False, **names: str
) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=rstrip) for token in special]
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def qwen() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(special, ["<tool_call>", "<think>", "</think>"], eos_token="<|im_end|>", pad_token=special[0])


def llama3() -> PreTrainedTokenizerFast:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(special, bos_token=special[0], eos_token="<|eot_id|>")


def mistral() -> PreTrainedTokenizerFast:
    return sentencepiece(["<s>", "</s>", "[INST]", "[/INST]"], bos_token="<s>", eos_token="</s>")


def mistral_legacy() -> PreTrainedTokenizerFast:
    special = ["<s>", "</s>", "[INST]", "[/INST]"]
    return sentencepiece(special, start="every", bos_token="<s>", eos_token="</s>")


def llama2() -> PreTrainedTokenizerFast:
    return sentencepiece(["<s>", "</s>"], start="every", bos_token="<s>", eos_token="</s>")


def gemma() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    return sentencepiece(special, ["\n\n"], start="never", **names)


def unigram() -> PreTrainedTokenizerFast:
    return sentencepiece(["<s>", "</s>", "[INST]", "[/INST]"], unigram=True, bos_token="<s>", eos_token="</s>")


def from_scratch() -> PreTrainedTokenizerFast:
    return train_tokenizer(SENTENCES, 400)


def phi3() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return byte_level(special, rstrip=True, eos_token="<|endoftext|>")


def vicuna() -> PreTrainedTokenizerFast:
    return byte_level(["</s>"], eos_token="</s>")


FAMILIES = [
    Family("chatml", CHATML, qwen, "<|im_end|>"),
    Family("qwen3_thinking", QWEN3, qwen, "<|im_end|>", {"enable_thinking": True}),
    Family("qwen3_not_thinking", QWEN3, qwen, "<|im_end|>", {"enable_thinking": False}),
    Family("llama3", LLAMA3, llama3, "<|eot_id|>"),
    Family("llama3_today", LLAMA3_TODAY, llama3, "<|eot_id|>"),
    Family("mistral", MISTRAL, mistral, "</s>", opening=" "),
    Family("mistral_unigram", MISTRAL, unigram, "</s>", opening=" "),
    Family("mistral_legacy", MISTRAL, mistral_legacy, "</s>", opening=" "),
    Family("llama2", LLAMA2, llama2, " </s>", opening=" "),
    Family("gemma", GEMMA, gemma, "<end_of_turn>", takes_system=False),
    Family("phi3", PHI3, phi3, "<|end|>"),
    Family("vicuna", VICUNA, vicuna, "</s>", takes_system=False, opening=" "),
    Family("from_scratch", DEFAULT_CHAT_TEMPLATE, from_scratch, "<|end|>", opening=" "),
]
BY_NAME = {family.name: family for family in FAMILIES}
