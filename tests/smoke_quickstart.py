"""The quickstart's whole road with a small budget: prepare, every stage, evaluation, report. Run by .ci/run.

The budget is too small for the figures of the README; what it must reach is well above guessing, and far below them.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

RUN = Path("runs/smoke")
OVERRIDES = [
    f"output={RUN}",
    "data=data/smoke",
    "prepare.demo.clips=600",
    "prepare.demo.validation_clips=48",
    "prepare.demo.test_clips=120",
    "prepare.demo.text_scenes=2400",
    "stages.language.trainer.max_steps=200",
    "stages.language.trainer.eval_steps=200",
    "stages.listen.trainer.max_steps=200",
    "stages.listen.trainer.eval_steps=200",
    "stages.align.trainer.max_steps=60",
    "stages.align.trainer.eval_steps=60",
    "stages.instruct.trainer.max_steps=60",
    "stages.instruct.trainer.eval_steps=60",
]
"""What makes the quickstart small: clips and steps."""
AT_LEAST: dict[str, float] = {"kind": 0.75, "count": 0.75, "gender": 0.75}
"""Task -> the score that it must reach."""
SECONDS = 600


def main() -> None:
    """Train, then hold the figures to their bars; the exit code tells."""
    shutil.rmtree(RUN, ignore_errors=True)
    started = time.monotonic()
    audiollm = str(Path(sys.executable).with_name("audiollm"))
    subprocess.run([audiollm, "train", "quickstart", *OVERRIDES], check=True)
    seconds = time.monotonic() - started
    results = json.loads((RUN / "results.json").read_text())
    failures = list(shortfalls(results))
    if seconds > SECONDS:
        failures.append(f"took {seconds:.0f} s, and may take {SECONDS}")
    for name, task in results["tasks"].items():
        print(f"{name:12} {task['metric']:6} {task['score']:.3f}   blind {task['blind']:.3f}   n {task['n']}")
    if failures:
        sys.exit("\n".join(["smoke run of the quickstart:", *failures]))
    print(f"smoke run of the quickstart: {len(AT_LEAST)} passed, 0 failed in {seconds:.0f} s")


def shortfalls(results: dict) -> list[str]:
    """A sentence for each figure that is missing or too low."""
    found = []
    for task, bar in AT_LEAST.items():
        score = results["tasks"].get(task, {}).get("score")
        if score is None or score < bar:
            found.append(f"{task} reached {score}, and must reach {bar}")
    if not (RUN / "report.html").is_file():
        found.append(f"there is no {RUN / 'report.html'}")
    return found


if __name__ == "__main__":
    main()
