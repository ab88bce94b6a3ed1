"""Kills a small run with SIGKILL at random moments, starts it again each time, and compares its weights at the end.

    python benchmarks/crash.py --json crash.json

The weights of every stage must be those of a run that was never stopped, bit for bit. The run has two stages (encoder,
then connector and LoRA), resume points every 5 steps, LoRA dropout, and a few seconds of work, so that a random moment
falls into a step, into the writing of a resume point or of a checkpoint, and between stages.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
STEPS = 60
RECIPE = """
name: crash
data: {folder}/data
model:
  encoder:
    name: whisper
    config:
      {{d_model: 64, encoder_layers: 2, encoder_attention_heads: 2, encoder_ffn_dim: 128, max_source_positions: 100}}
  connector: {{name: mlp, stack: 5, hidden_size: 64}}
  llm:
    config:
      {{model_type: qwen3, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2,
       num_key_value_heads: 1, head_dim: 32}}
    tokenizer: {{train_on: {folder}/rows.jsonl, vocab_size: 320}}
stages:
  listen:
    train: [encoder]
    objectives: {{contrastive: 1}}
    data: {{train: ["{folder}/rows.jsonl"]}}
    trainer:
      {{max_steps: {steps}, per_device_train_batch_size: 4, save_steps: 5, logging_steps: 10, learning_rate: 1.0e-3}}
  instruct:
    train: {{connector: 1.0e-3, lora: 1.0e-3}}
    lora: {{r: 4, alpha: 8, dropout: 0.1}}
    objectives: {{language_modeling: 1}}
    data: {{train: ["{folder}/rows.jsonl"], cache_features: true}}
    trainer: {{max_steps: {steps}, per_device_train_batch_size: 4, save_steps: 5, logging_steps: 10}}
"""


def write_work(folder: Path) -> None:
    """Sixteen tones with three questions each, and the recipe."""
    import soundfile

    rows = []
    for number in range(16):
        draw = np.random.default_rng(number)
        pitch = ("low", "middle", "high")[number % 3]
        hertz = {"low": 300, "middle": 900, "high": 2700}[pitch]
        axis = np.arange(int(RATE * draw.uniform(0.3, 0.8))) / RATE
        soundfile.write(folder / f"{number}.wav", 0.4 * np.sin(2 * np.pi * hertz * axis), RATE)
        clip = {
            "type": "audio",
            "audio": f"{number}.wav",
            "duration": len(axis) / RATE,
            "description": f"a {pitch} tone",
        }
        for question, answer in (
            ("what do you hear?", f"a {pitch} tone"),
            ("is it high?", "yes" if pitch == "high" else "no"),
        ):
            user = {"role": "user", "content": [clip, {"type": "text", "text": question}]}
            rows.append({"source_id": str(number), "messages": [user, {"role": "assistant", "content": answer}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, steps=STEPS))


def command(folder: Path, output: str) -> list[str]:
    """The same command every time."""
    return [sys.executable, "-m", "audiollm", "train", str(folder / "recipe.yaml"), f"output={folder / output}"]


def weights(run: Path) -> str:
    """A hash over every file of weights of a run's checkpoints."""
    digest = hashlib.sha256()
    for file in sorted(run.glob("*/*.safetensors")) + sorted(run.glob("*/adapter/*.safetensors")):
        digest.update(file.relative_to(run).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def where(run: Path) -> str:
    """What the run was doing, as far as its folder tells."""
    done = json.loads((run / "run.json").read_text())["stages"] if (run / "run.json").is_file() else {}
    if list(run.rglob("*.partial")):
        return "while saving"
    work = run / "unfinished"
    if not work.is_dir():
        return "before the first stage" if not done else "between stages"
    return "before a resume point" if not list(work.glob("*/checkpoint-*")) else "in a step"


def main() -> None:
    """Run once whole, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_work(folder)
        started = time.perf_counter()
        subprocess.run(command(folder, "whole"), check=True, stdout=subprocess.DEVNULL, env=environment)
        whole_seconds = time.perf_counter() - started
        kills: Counter[str] = Counter()
        runs = 0
        while kills.total() < options.kills:
            output = f"killed-{runs}"
            runs += 1
            while kills.total() < options.kills:
                process = subprocess.Popen(command(folder, output), stdout=subprocess.DEVNULL, env=environment)
                try:
                    process.wait(timeout=draw.uniform(0.4, 0.95) * whole_seconds)
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills[where(folder / output)] += 1
                    print(f"  kill {kills.total()}: {where(folder / output)}", flush=True)
            subprocess.run(command(folder, output), check=True, stdout=subprocess.DEVNULL, env=environment)
        expected = weights(folder / "whole")
        identical = [weights(folder / f"killed-{number}") == expected for number in range(runs)]
    result: dict[str, Any] = {
        "kills": kills.total(),
        "moments": dict(kills),
        "runs": runs,
        "identical": all(identical),
        "seconds_of_a_whole_run": round(whole_seconds, 1),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(identical) else 1)


if __name__ == "__main__":
    main()
