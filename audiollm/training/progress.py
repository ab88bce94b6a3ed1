"""What a person sees while a stage trains: one bar, and a line of figures whenever the trainer logs.

On a terminal the bar is redrawn in place; elsewhere (a file, CI) there is one line for each log entry.
"""

import sys
from collections import Counter
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from audiollm.training.bad_rows import sentence

SHOWN = {
    "loss": "loss {:.3f}",
    "eval_loss": "validation {:.3f}",
    "learning_rate": "lr {:.1e}",
    "tokens_per_second": "{:,.0f} tok/s",
    "audio_seconds_per_second": "{:,.0f} s audio/s",
    "padding_share": "padding {:.0%}",
}


class StageProgress(TrainerCallback):
    """A progress bar with loss, learning rate and throughput; names broken clips as soon as they are met."""

    def __init__(self, stage: str, trainer: Any) -> None:
        self.stage = stage
        self.trainer = trainer
        self.bar: Any = None
        self.told = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar, at the step where a resumed stage goes on."""
        self.trainer.logged_at = state.global_step
        if state.is_world_process_zero:
            self.told = len(self.trainer.bad_rows.quarantine.rows)  # those were told when the rows were read
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.stage, disable=not sys.stderr.isatty()
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step on."""
        if self.bar is not None:
            self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the figures of this line."""
        if self.bar is None or not logs:
            return
        line = "  ".join(form.format(logs[name]) for name, form in SHOWN.items() if name in logs)
        if self.bar.disable:
            if line:
                print(f"  {self.stage} {state.global_step}/{state.max_steps}  {line}", flush=True)
        else:
            self.bar.set_postfix_str(line)
        rows = self.trainer.bad_rows.quarantine.rows
        for row in rows[self.told :][:5]:
            self.bar.write(f"left out: {sentence(row)}")
        self.told = len(rows)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar; count what was left out."""
        if self.bar is not None:
            self.bar.close()
            losses = [entry[name] for name in ("train_loss", "loss") for entry in state.log_history if name in entry]
            print(f"stage {self.stage}: {state.global_step:,} steps{f', loss {losses[-1]:.3f}' if losses else ''}")
            quarantine = self.trainer.bad_rows.quarantine
            if quarantine.rows:
                found = Counter(row["found"] for row in quarantine.rows)
                counts = ", ".join(f"{count:,} found by {how}" for how, count in found.items())
                print(f"stage {self.stage}: rows that gave no loss: {counts}; {quarantine.path} lists them")
