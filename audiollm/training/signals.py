"""SIGINT and SIGTERM end a stage after the step that is being done, with a resume point; a second SIGINT at once."""

import signal
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback


class Stopped(KeyboardInterrupt):
    """A stage was asked to stop by a signal, and what it did is saved."""

    def __init__(self, where: str, number: int) -> None:
        super().__init__(where)
        self.number = number


class StopOnSignal(TrainerCallback):
    """Installed while a stage trains; only in the main thread can signals be handled."""

    def __init__(self) -> None:
        self.asked = 0  # the number of the signal
        self.before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen for signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self.ask)
            except ValueError:  # another thread
                return

    def ask(self, number: int, _: Any) -> None:
        """Stop after this step; the next signal is the usual one again."""
        self.asked = number
        self.restore()
        print("stopping after this step ...", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save, and go no further; a signal to one of several processes stops them all."""
        if distributed.is_available() and distributed.is_initialized():
            asked = torch.tensor(self.asked, device=args.device)
            distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
            self.asked = int(asked)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Signals mean again what they meant before."""
        self.restore()

    def restore(self) -> None:
        """Put the former handlers back."""
        while self.before:
            number, handler = self.before.popitem()
            signal.signal(number, handler)
