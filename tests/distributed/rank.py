"""One rank of a run: as `audiollm train`, but after a step something may happen to it.

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


def run(event: str, arguments: list[str]) -> None:
    """The command, in an environment that says which rank this is."""
    if event:
        stage, kind, step = event.split(":")
        after(stage, kind, int(step))
    sys.argv = ["audiollm", *arguments]
    main()


def forked(rank: int, port: int, event: str, arguments: list[str], said: str, complaints: str) -> None:
    """The same in a process that was forked where everything is imported already, which spares it ten seconds."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    for path, stream in ((said, sys.stdout), (complaints, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())
    run(event, arguments)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
