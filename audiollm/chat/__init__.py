"""One conversation object over inference (talk.py), and the terminal in front of it (terminal.py).

talk = audiollm.chat("runs/quickstart"); talk.ask("What do you hear?", audio="x.wav")
"""

import sys
from types import ModuleType
from typing import Any

from audiollm.chat.talk import Talk, open_talk

__all__ = ["Talk", "open_talk"]


class _Chat(ModuleType):
    def __call__(self, checkpoint: Any, **settings: Any) -> Talk:
        """Open a conversation with a checkpoint; the arguments are those of `open_talk`."""
        return open_talk(checkpoint, **settings)


# `audiollm.chat(...)` is the public call, and importing this room binds the same name to this module: so the
# module itself can be called, whatever was imported before.
sys.modules[__name__].__class__ = _Chat
