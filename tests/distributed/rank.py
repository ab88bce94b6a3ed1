"""One rank of a run that is started by torchrun: as `audiollm train`, but after a step something happens to it.

torchrun ... rank.py STAGE:EVENT:STEP train RECIPE ...
"""

import os
import resource
import signal
import sys

from audiollm.cli import main
from audiollm.training.progress import StageProgress

FULL = 220_000
"""Bytes of the largest file on a full disk: the weights of the tiny model fit, its optimizer's state does not."""


def after(stage: str, event: str, step: int) -> None:
    """What happens after a step: the process dies as if killed, one is asked to stop, ..."""
    on_step_end = StageProgress.on_step_end

    def end(progress, args, state, control, **more):
        on_step_end(progress, args, state, control, **more)
        if (progress.stage, state.global_step) != (stage, step):
            return
        if event == "killed":
            os._exit(3)
        if event == "asked" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        if event == "full" and os.environ["RANK"] == "0":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL))
        if event == "poisoned" and os.environ["RANK"] == "1":
            progress.trainer.stage_model.objectives["language_modeling"].weight = float("nan")

    StageProgress.on_step_end = end


if __name__ == "__main__":
    if sys.argv[1]:
        stage, event, step = sys.argv[1].split(":")
        after(stage, event, int(step))
    sys.argv[1:2] = []
    main()
