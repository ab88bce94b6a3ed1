"""VoiceAssistant-400K: questions to an assistant, spoken by a speech synthesizer, and answers that can be spoken.

{"split_name": "qa_assistant", "index": "qa_assistant_17", "round": "1", "question": "How do I keep bread fresh?",
 "question_audio": AUDIO, "answer": "Keep it in a paper bag, away from the sun.", "answer_snac": "# 1049 127 1590 # 2"}
"""

from typing import Any

from audiollm.curation.dataset import Ask, DataSet, Draw, Item

SET = DataSet(
    title="VoiceAssistant-400K: spoken questions to an assistant",
    license="apache-2.0",
    tasks=("spoken_dialogue",),
    columns=("split_name", "index", "round", "question", "question_audio", "answer"),
    hub="gpt-omni/VoiceAssistant-400K",
    language="en",
    citation="Xie and Wu, Mini-Omni: Language Models Can Hear, Talk While Thinking in Streaming, 2024",
)


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The recording asks, and nothing beside it; `answer_snac`, codes of sound, is never read."""
    name = "-".join(str(row[key]) for key in ("split_name", "index", "round"))
    return Item(
        row["question_audio"], name, [Ask("spoken_dialogue", "", row["answer"].strip())], transcript=row["question"]
    )
