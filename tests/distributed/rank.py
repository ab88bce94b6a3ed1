"""One rank of a run that is started by torchrun: as `audiollm train`, but it dies after a step if it is told to.

torchrun ... rank.py STAGE STEP train RECIPE ...
"""

import os
import signal
import sys

from audiollm.cli import main
from audiollm.training.progress import StageProgress


def die_after(stage: str, step: int) -> None:
    """Let the process end at this step, as if it was killed; with STAGE:signal let the second one be asked to stop."""
    stage, _, asked = stage.partition(":")
    on_step_end = StageProgress.on_step_end

    def end(progress, args, state, control, **more):
        on_step_end(progress, args, state, control, **more)
        if progress.stage == stage and state.global_step == step:
            if not asked:
                os._exit(3)
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)

    StageProgress.on_step_end = end


if __name__ == "__main__":
    die_after(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:3] = []
    main()
