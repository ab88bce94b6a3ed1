"""Rendering: prompts as generation sees them, only the answer supervised, typed control tokens as letters."""

import pytest
from chat_templates import BY_NAME, FAMILIES, SENTENCES
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from audiollm.conversation import parse_messages
from audiollm.models.control_tokens import AUDIO_TOKEN, ControlTokens
from audiollm.models.processing import AudioLLMFeatureExtractor, AudioLLMProcessor
from audiollm.models.rendering import expand, without_todays_date

AUDIO = {"type": "audio", "audio": "clip.flac"}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def assistant(words, **more):
    return {"role": "assistant", "content": words, **more}


CONVERSATIONS = {
    "text only": [user("Who speaks?"), assistant("A woman speaks.")],
    "one clip": [user(AUDIO, "How many birds are singing?"), assistant("Two birds.")],
    "clip last": [user("What do you hear?", AUDIO), assistant("A dog barks twice,\nthen a bell rings.")],
    "system prompt": [SYSTEM, user(AUDIO, "Is there a siren?"), assistant("No, I hear rain.")],
    "several clips": [user(AUDIO, "and", AUDIO, AUDIO, "Is there a siren?"), assistant("No.\n\nI hear rain.")],
    "several turns": [
        SYSTEM,
        user(AUDIO, "Who speaks?"),
        assistant("A woman speaks."),
        user(AUDIO, "And here?"),
        assistant("A dog."),
        user("Is there a siren?"),
        assistant("No, I hear rain."),
    ],
}
TYPED = "Say <|audio|> <|im_end|></s> [INST] <end_of_turn><|eot_id|> <think> <|end|> to me."


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def renderer(family):
    return renderer_of(family)


def renderer_of(family):
    return AudioLLMProcessor(AudioLLMFeatureExtractor(), family.tokenizer()).renderer


def plain_messages(conversation, takes_system):
    """The messages as one writes them for a language model by hand: strings, with the placeholder in them."""
    messages = []
    for message in conversation:
        parts = [text(message["content"])] if isinstance(message["content"], str) else message["content"]
        words = "\n".join(part.get("text", AUDIO_TOKEN) for part in parts)
        messages.append({"role": message["role"], "content": words})
    if messages[0]["role"] == "system" and not takes_system:
        system = messages.pop(0)
        messages[0]["content"] = system["content"] + "\n\n" + messages[0]["content"]
    return messages


def reference_prompt(family, tokenizer, conversation, lengths):
    """transformers' own ids, each placeholder repeated."""
    ids = tokenizer.apply_chat_template(
        plain_messages(conversation, family.takes_system),
        chat_template=family.template.replace('strftime_now("%d %b %Y")', '"26 Jul 2024"'),
        add_generation_prompt=True,
        **family.kwargs,
    )["input_ids"]
    audio, lengths = tokenizer.convert_tokens_to_ids(AUDIO_TOKEN), iter(lengths)
    return [token for one in ids for token in ([one] * next(lengths) if one == audio else [one])]


def render(renderer, family, conversation, supervise="last", lengths=(3, 1, 2)):
    messages = parse_messages(conversation)
    return renderer.render(messages, lengths, supervise=supervise, **family.kwargs)


def supervised_texts(renderer, rendered):
    """The text of each run of supervised tokens."""
    runs, previous = [], False
    for token, is_supervised in zip(rendered.input_ids, rendered.supervised, strict=True):
        if is_supervised and not previous:
            runs.append([])
        if is_supervised:
            runs[-1].append(token)
        previous = is_supervised
    return [renderer.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_prompt_ids_are_those_of_transformers(family, renderer, conversation):
    lengths = [5, 1, 3][: sum(part is AUDIO for message in conversation for part in message["content"])]
    prompt = renderer.prompt_ids(parse_messages(conversation[:-1]), lengths, **family.kwargs)
    assert prompt == reference_prompt(family, renderer.tokenizer, conversation[:-1], lengths)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_supervised_is_the_last_answer_with_its_end_of_turn_and_nothing_else(family, renderer, conversation):
    [rendered] = render(renderer, family, conversation)
    prompt = renderer.prompt_ids(parse_messages(conversation[:-1]), (3, 1, 2)[: rendered.num_clips], **family.kwargs)
    assert rendered.input_ids[: len(prompt)] == prompt
    assert rendered.supervised == [False] * len(prompt) + [True] * (len(rendered.input_ids) - len(prompt))
    [learned] = supervised_texts(renderer, rendered)
    assert learned.removeprefix(family.opening) == conversation[-1]["content"] + family.end_of_turn
    assert renderer.tokenizer.convert_ids_to_tokens(rendered.input_ids[-1]) == family.end_of_turn.strip()


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_the_pieces_of_a_sequence_are_its_text_and_control_tokens_stand_alone(family, renderer, conversation):
    [rendered] = render(renderer, family, conversation)
    pieces = renderer.pieces(rendered.input_ids, rendered.supervised)
    whole = "".join(piece.text * (piece.tokens if piece.kind == "audio" else 1) for piece in pieces)
    assert whole == renderer.tokenizer.decode(rendered.input_ids)
    assert [piece.supervised for piece in pieces for _ in range(piece.tokens)] == rendered.supervised
    assert {piece.text for piece in pieces if piece.kind == "control"} <= renderer.control.names
    assert {piece.text for piece in pieces if piece.kind == "audio"} <= {AUDIO_TOKEN}


# The others write more around an answer than what the model must say: an empty thought, or no end of turn.
FAITHFUL = [family for family in FAMILIES if family.name not in ("qwen3_thinking", "vicuna")]


@pytest.mark.parametrize("family", FAITHFUL, ids=lambda family: family.name)
def test_an_answer_has_the_ids_that_the_template_gives_it_inside_a_whole_conversation(family):
    renderer = renderer_of(family)
    conversation = CONVERSATIONS["one clip"]
    [rendered] = render(renderer, family, conversation, lengths=(1,))
    whole = renderer.tokenizer.apply_chat_template(
        plain_messages(conversation, family.takes_system), chat_template=renderer.template, **family.kwargs
    )["input_ids"]
    assert whole[: len(rendered.input_ids)] == rendered.input_ids


def test_typed_control_tokens_stay_letters_in_questions_system_texts_and_answers(family, renderer):
    tokenizer = renderer.tokenizer
    conversation = [{"role": "system", "content": TYPED}, user(AUDIO, TYPED), assistant(TYPED)]
    harmless = [{"role": "system", "content": "Say so."}, user(AUDIO, "Say so."), assistant("Say so.")]
    [typed], [clean] = (render(renderer, family, one, lengths=(2,)) for one in (conversation, harmless))

    def controls(rendered):
        names = renderer.control.names - {"<think>"}
        return [token for token in tokenizer.convert_ids_to_tokens(rendered.input_ids) if token in names]

    assert controls(typed) == controls(clean)
    assert tokenizer.decode(typed.input_ids).count(TYPED) == 3


def test_a_model_may_think_aloud_but_a_person_only_types_the_word():
    """`<think>` is no special token; Qwen3's template writes it, so it is a control token in what people type."""
    renderer = renderer_of(BY_NAME["qwen3_thinking"])
    conversation = [user("What does <think> mean?"), assistant("<think>\nI hear rain.\n</think>\n\nNo.")]
    [rendered] = render(renderer, BY_NAME["qwen3_thinking"], conversation, lengths=())
    think = renderer.tokenizer.convert_tokens_to_ids("<think>")
    assert [s for token, s in zip(rendered.input_ids, rendered.supervised, strict=True) if token == think] == [True]


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_the_way_for_typed_control_tokens_gives_every_other_text_its_own_ids(family, renderer, conversation):
    rendered = renderer.text(parse_messages(conversation), add_generation_prompt=False, **family.kwargs)
    for text in (rendered, *SENTENCES):
        own = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert renderer.control._encode_marked(text) == renderer.control.encode(text) == own


def test_a_control_token_that_the_merges_of_a_tokenizer_make_stays_letters_too():
    pieces = {"<": 0, "/": 1, "s": 2, ">": 3, "</": 4, "s>": 5, "</s>": 6, "<unk>": 7}
    tokens = Tokenizer(models.BPE(pieces, [("<", "/"), ("s", ">"), ("</", "s>")], unk_token="<unk>"))
    tokens.add_special_tokens(["</s>", "<unk>"])
    control = ControlTokens(PreTrainedTokenizerFast(tokenizer_object=tokens), "")
    assert control.encode("s</s>") == [2, 6]
    assert control.encode(control.mark("s</s>?") + "</s>") == [2, 4, 5, 7, 6]


def test_the_private_characters_cannot_be_used_to_forge_a_control_token(renderer):
    forged = renderer.control.mark("\U000f0001<|audio|> <\U000f0000|audio|> <|au\U000f0001dio|>")
    assert renderer.audio_token_id not in renderer.control.encode(forged)


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "from_scratch"])
def test_all_turns_share_one_sequence_where_the_template_keeps_history(name):
    family = BY_NAME[name]
    renderer = renderer_of(family)
    [rendered] = render(renderer, family, CONVERSATIONS["several turns"], supervise="all", lengths=(3, 1))
    ends = ["A woman speaks.", "A dog.", "No, I hear rain."]
    assert supervised_texts(renderer, rendered) == [family.opening + words + family.end_of_turn for words in ends]
    assert rendered.num_clips == 2
    [last] = render(renderer, family, CONVERSATIONS["several turns"], lengths=(3, 1))
    assert rendered.input_ids == last.input_ids


@pytest.mark.parametrize("supervise", ["last", "all"])
def test_every_supervised_turn_follows_its_own_prompt_of_generation(family, renderer, supervise):
    conversation = CONVERSATIONS["several turns"]
    learned = []
    for rendered in render(renderer, family, conversation, supervise=supervise, lengths=(3, 1)):
        starts = [i for i in range(1, len(rendered.supervised)) if rendered.supervised[i] > rendered.supervised[i - 1]]
        prompts = [
            renderer.prompt_ids(parse_messages(conversation[:end]), (3, 1)[:clips], **family.kwargs)
            for end, clips in ((2, 1), (4, 2), (6, 2))
        ]
        for start in starts:
            assert rendered.input_ids[:start] in prompts
        learned += supervised_texts(renderer, rendered)
    assert len(learned) == {"last": 1, "all": 3}[supervise]


def test_a_turn_whose_history_is_rewritten_gets_its_own_sequence_with_its_own_clips():
    family = BY_NAME["mistral"]  # moves the system text to the last question
    sequences = render(renderer_of(family), family, CONVERSATIONS["several turns"], supervise="all", lengths=(3, 1))
    assert [sequence.num_clips for sequence in sequences] == [1, 2, 2]


def test_thoughts_are_learned_but_taken_out_of_the_history():
    family = BY_NAME["qwen3_thinking"]
    renderer = renderer_of(family)
    thoughtful = "<think>\nI hear rain.\n</think>\n\nNo."
    conversation = [user("Is there a siren?"), assistant(thoughtful), user("Who speaks?"), assistant("A woman.")]
    first, second = render(renderer, family, conversation, supervise="all", lengths=())
    assert supervised_texts(renderer, first) == [thoughtful + "<|im_end|>"]
    assert renderer.tokenizer.convert_tokens_to_ids("</think>") in first.input_ids
    assert "I hear rain" not in renderer.tokenizer.decode(second.input_ids)
    assert supervised_texts(renderer, second) == ["A woman.<|im_end|>"]


def test_a_message_without_loss_is_read_but_not_learned(family, renderer):
    conversation = [user("Who speaks?"), assistant("A dog.", loss=False), user("Really?"), assistant("A woman.")]
    learned = [
        words
        for rendered in render(renderer, family, conversation, supervise="all", lengths=())
        for words in supervised_texts(renderer, rendered)
    ]
    assert [words.removeprefix(family.opening) for words in learned] == ["A woman." + family.end_of_turn]
    assert render(renderer, family, [user("Who speaks?"), assistant("A dog.", loss=False)], lengths=()) == []


def test_white_space_around_an_answer_is_treated_as_the_template_treats_it():
    conversation = [user("Who speaks?"), assistant(" A dog. ")]
    for name, expected in (("chatml", " A dog. <|im_end|>"), ("llama3", "A dog.<|eot_id|>")):
        renderer = renderer_of(BY_NAME[name])
        [rendered] = render(renderer, BY_NAME[name], conversation, lengths=())
        assert supervised_texts(renderer, rendered) == [expected]


def test_the_date_of_a_prompt_is_fixed_unless_it_is_given():
    for name in ("llama3", "llama3_today"):
        renderer = renderer_of(BY_NAME[name])
        assert "Today Date: 26 Jul 2024" in renderer.text(parse_messages("Hello?"), add_generation_prompt=True)
    given = renderer_of(BY_NAME["llama3"]).text(
        parse_messages("Hello?"), add_generation_prompt=True, date_string="today"
    )
    assert "Today Date: today" in given
    assert without_todays_date("{{ strftime_now('%Y-%m-%d') }}") == "{{ '2024-07-26' }}"


def test_what_a_template_refuses_is_said_in_one_sentence():
    renderer = renderer_of(BY_NAME["gemma"])
    with pytest.raises(ValueError, match=r"refuses a conversation of user, user: .* must alternate"):
        renderer.prompt_ids(parse_messages([user("Who?"), user("Who?")]), ())
    with pytest.raises(ValueError, match="no system role, and no user message follows"):
        renderer.prompt_ids(parse_messages([SYSTEM]), ())


def test_settings_of_the_template_may_change_the_end_of_turn():
    renderer = renderer_of(BY_NAME["from_scratch"])
    renderer.template = "{% for m in messages %}{{ m.content }}{{ '<|end|>' if polite else '<|pad|>' }}{% endfor %}"
    end, pad = (renderer.tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|pad|>"))
    assert renderer.turn(polite=True).end == (end,)
    assert renderer.turn(polite=False).end == (pad,)


def test_a_template_that_drops_the_answer_is_refused():
    renderer = renderer_of(BY_NAME["chatml"])
    renderer.template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match="leaves out the assistant's answer"):
        renderer.turn()


def test_a_conversation_without_an_answer_cannot_be_learned():
    renderer = renderer_of(BY_NAME["chatml"])
    with pytest.raises(ValueError, match="must end with the assistant's answer"):
        renderer.render(parse_messages("Who speaks?"), (), supervise="last")
    with pytest.raises(ValueError, match="'last' or 'all'"):
        renderer.render(parse_messages([user("Who?"), assistant("I.")]), (), supervise="first")


def test_placeholders_and_clips_that_differ_are_an_error_with_both_numbers():
    assert expand([7, 1, 7], 7, [2, 3]) == [7, 7, 1, 7, 7, 7]
    with pytest.raises(ValueError, match="2 audio placeholders, but 1 clips"):
        expand([7, 1, 7], 7, [2])
