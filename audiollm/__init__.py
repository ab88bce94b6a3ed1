"""Audio language models from parts: build, train in stages, judge, chat.

talk = audiollm.chat("runs/quickstart")        a conversation: talk.ask("What do you hear?", audio="x.wav")
listener = audiollm.load("runs/quickstart")    many prompts at once: listener.answer(prompts)
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "chat", "load"]


def __getattr__(name: str) -> Any:
    """`chat` and `load` on first use, so that importing the package does not import torch."""
    if name == "chat":
        return importlib.import_module("audiollm.chat")
    if name == "load":
        return importlib.import_module("audiollm.inference").load
    raise AttributeError(f"module 'audiollm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
