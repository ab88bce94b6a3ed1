"""Rows a second and memory of training, against transformers' own Qwen2-Audio on the same work.

    python benchmarks/throughput.py --against transformers --json throughput.json

Both sides train the same clips, questions, sizes and steps, each in a process of its own; they take turns step by step,
so that a machine whose speed drifts is as fast for one as for the other.

    peer   Qwen2AudioForConditionalGeneration, its processor, a usual collator, plain Trainer, micro-batches of 8 rows
    ours   the road of `audiollm train`

What a row costs is what a user waits for it: reading the recording, features, forward, backward, optimizer.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE = 16_000
VOCABULARY = 32_000
ROWS_A_STEP = 40
MICRO_BATCH = 8  # rows of the peer, five to a step
OUR_MICRO_BATCHES = 4  # to a step
ENCODER = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
}
LLM = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "max_position_embeddings": 8192,
}  # fmt: skip
LORA = {"r": 8, "alpha": 16}
LEARNING_RATE = 5e-3
SPECIAL = [
    "<|pad|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
]


@dataclass(frozen=True)
class Work:
    """What is trained on, the same for both sides."""

    clips: int
    questions: int  # a clip
    seconds: float  # the median length; 0.45 is the deviation of its logarithm, cut at a quarter and at 3.5 times
    epochs: int
    steps: int | None
    seed: int
    folder: str

    def durations(self) -> list[float]:
        """Seconds of each clip: log-normal."""
        draw = np.random.default_rng(self.seed)
        drawn = np.exp(draw.normal(np.log(self.seconds), 0.45 if self.clips > 1 else 0, self.clips))
        return [float(value) for value in drawn.clip(self.seconds / 4, self.seconds * 3.5)]

    def texts(self, clip: int) -> list[tuple[str, str]]:
        """Questions of 8 to 25 words and answers of 1 to 25, in words of a Zipf-like distribution."""
        draw = np.random.default_rng([self.seed, clip])

        def words(count: int) -> str:
            ranks = (draw.pareto(1.0, count) * 20).astype(int) % (VOCABULARY - len(SPECIAL) - 1)
            return " ".join(f"w{rank}" for rank in ranks)

        return [(words(draw.integers(8, 26)), words(draw.integers(1, 26))) for _ in range(self.questions)]

    @property
    def clips_a_step(self) -> int:
        """So that a step has 40 rows."""
        return max(ROWS_A_STEP // self.questions, 1)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps or max(self.clips * self.epochs // self.clips_a_step, 1)


def write_work(work: Work) -> None:
    """The recordings as wav files, and the rows."""
    import soundfile

    folder = Path(work.folder)
    with (folder / "rows.jsonl").open("w") as file:
        for clip, seconds in enumerate(work.durations()):
            draw = np.random.default_rng([work.seed, 1, clip])
            time_axis = np.arange(round(seconds * RATE)) / RATE
            samples = 0.3 * np.sin(2 * np.pi * draw.uniform(100, 3000) * time_axis) + draw.normal(
                0, 0.05, len(time_axis)
            )
            soundfile.write(folder / f"{clip}.wav", samples.astype(np.float32), RATE)
            for number, (question, answer) in enumerate(work.texts(clip)):
                heard = {"type": "audio", "audio": f"{clip}.wav", "duration": len(samples) / RATE}
                user = {"role": "user", "content": [heard, {"type": "text", "text": question}]}
                row = {"id": f"{clip}-{number}", "source_id": str(clip), "source": "work"}
                row["messages"] = [user, {"role": "assistant", "content": answer}]  # type: ignore[assignment]
                file.write(json.dumps(row) + "\n")


def word_tokenizer() -> Any:
    """One word, one token; the same for both sides."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from audiollm.models.rendering import DEFAULT_CHAT_TEMPLATE

    words = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = DEFAULT_CHAT_TEMPLATE
    return fast


# ---------------------------------------------------------------------------------------------------------- two sides


def build_peer(work: Work, gate: Any) -> Any:
    """transformers' Trainer on Qwen2-Audio, LoRA on q and v of the language model."""
    import soundfile
    from peft import LoraConfig, get_peft_model
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        Qwen2Config,
        Trainer,
        TrainingArguments,
        WhisperFeatureExtractor,
        set_seed,
    )

    set_seed(work.seed)
    tokenizer = word_tokenizer()
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=ENCODER["num_mel_bins"]), tokenizer)
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**ENCODER).to_dict(),
        text_config=Qwen2Config(vocab_size=VOCABULARY, **LLM).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    model.requires_grad_(False)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    lora = LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=targets, lora_dropout=0.0)
    model = get_peft_model(model, lora)
    folder = Path(work.folder)

    def collate(rows: list[tuple[int, str, str]]) -> dict[str, Any]:
        head = [f"<|user|> <|audio_bos|><|AUDIO|><|audio_eos|> {question} <|assistant|> " for _, question, _ in rows]
        text = [f"{start}{answer} <|end|>" for start, (_, _, answer) in zip(head, rows, strict=True)]
        audio = [soundfile.read(folder / f"{clip}.wav", dtype="float32")[0] for clip, _, _ in rows]
        batch = processor(text=text, audio=audio, sampling_rate=RATE, padding=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        for number, (_, _, answer) in enumerate(rows):
            learned = len(answer.split()) + 1
            real = batch["attention_mask"][number].nonzero().flatten()
            labels[number, real[:-learned]] = -100
        return {**batch, "labels": labels}

    order = [clip for epoch in range(1000) for clip in random.Random(epoch).sample(range(work.clips), work.clips)]
    rows = [(clip, question, answer) for clip in order for question, answer in work.texts(clip)]
    arguments = TrainingArguments(
        output_dir=str(folder / "peer"), per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=ROWS_A_STEP // MICRO_BATCH, max_steps=work.num_steps, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", use_cpu=not torch.cuda.is_available(), logging_steps=1, save_strategy="no",
        train_sampling_strategy="sequential", remove_unused_columns=False, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows[: (work.num_steps + 1) * ROWS_A_STEP],  # type: ignore[arg-type]
        data_collator=collate,
        callbacks=[gate],
    )


def build_ours(work: Work, gate: Any, settings: list[str]) -> Any:
    """The trainer that `audiollm train` makes for a stage of a recipe."""
    import yaml

    from audiollm.data.dataset import SoundCache
    from audiollm.models.parts import build
    from audiollm.recipe import load_recipe
    from audiollm.training import stages
    from audiollm.training.features import fill, open_store

    folder = Path(work.folder)
    rows = str(folder / "rows.jsonl")
    encoder = {"name": "whisper", "config": ENCODER}
    connector = {"name": "mlp", "stack": 2, "hidden_size": 512}  # 25 audio tokens a second, as the peer's pooling gives
    tokenizer = {"tokenizer": {"train_on": rows, "vocab_size": 1000}}  # not used: both sides have one of whole words
    llm = {"config": {"model_type": "qwen2", "vocab_size": VOCABULARY, **LLM}}
    stage = {
        "train": {"lora": LEARNING_RATE},
        "objectives": {"language_modeling": 1},
        "lora": {**LORA, "target_modules": ["q_proj", "v_proj"]},
        "data": {"train": [rows]},
        "trainer": {
            "max_steps": work.num_steps, "per_device_train_batch_size": work.clips_a_step // OUR_MICRO_BATCHES,
            "gradient_accumulation_steps": OUR_MICRO_BATCHES, "logging_steps": 1,
            "lr_scheduler_type": "constant", "save_steps": 100_000, "report_to": [],
        },
    }  # fmt: skip
    written = {
        "name": "throughput", "output": str(folder / "ours"), "data": str(folder), "seed": work.seed,
        "model": {"encoder": encoder, "connector": connector, "llm": llm | tokenizer},
        "stages": {"instruct": stage},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    recipe = load_recipe(folder / "recipe.yaml", settings)
    stages.set_seed(work.seed)
    built = build(encoder=encoder, connector=connector, llm=llm, tokenizer=word_tokenizer())
    settled = recipe.stages["instruct"]
    stages.prepare_model(built, settled)
    objectives = stages.build_objectives(settled, built)
    data = stages.StageData.load(recipe, settled)
    tower = built.model.model.audio_tower
    store = open_store(recipe, tower) if settled.data.cache_features else None
    trainer = stages.build_trainer(
        recipe, "instruct", built, objectives, data, folder / "ours", folder / "logs", SoundCache(2**30), None, store
    )
    if store is not None:
        started = time.perf_counter()
        fill(store, tower, data.train, trainer.accelerator)
        trainer.encoding_seconds = time.perf_counter() - started  # type: ignore[attr-defined]
    trainer.add_callback(gate)
    return trainer


# ------------------------------------------------------------------------------------------------------- measurement


def gate_of(connection: Any) -> Any:
    """A callback that waits for its turn before each step, and tells how long the step took, loading included."""
    from transformers import TrainerCallback

    class Gate(TrainerCallback):
        since: float | None = None

        def take_turn(self) -> None:
            if self.since is not None:
                connection.send({"seconds": time.perf_counter() - self.since})
            connection.recv()
            self.since = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.take_turn()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            connection.send({"seconds": time.perf_counter() - (self.since or 0.0)})

    return Gate()


def memory_gib(field: str) -> float:
    """A line of /proc/self/status in GiB: VmRSS now, VmHWM the most since it was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def side(name: str, work: Work, settings: list[str], threads: int, connection: Any) -> None:
    """One process: build, train step by step, tell the losses and the memory."""
    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gate = gate_of(connection)
    trainer = build_peer(work, gate) if name == "peer" else build_ours(work, gate, settings)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    own = memory_gib("VmRSS")
    connection.send({"ready": own})
    trainer.train()
    scale = trainer.args.gradient_accumulation_steps if name == "peer" else 1  # Qwen2-Audio's mean is not divided
    losses = [entry["loss"] / scale for entry in trainer.state.log_history if "loss" in entry]
    encoding = getattr(trainer, "encoding_seconds", 0.0)
    peak = memory_gib("VmHWM") - own
    connection.send({"losses": losses, "peak_gib": peak, "own_gib": own, "encoding": encoding})


def matrix_rate(threads: int) -> float:
    """float32 GFLOP/s of a matrix product of the language model's shape."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 512), torch.randn(512, 1536)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(50):
            a @ b
        best = max(best, 50 * 2 * 1024 * 512 * 1536 / (time.perf_counter() - started) / 1e9)
    return best


def measure(work: Work, names: list[str], settings: list[str], threads: int) -> dict[str, dict[str, Any]]:
    """Seconds of each step, losses and memory of each side, the sides taking turns."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], other = context.Pipe()
        process = context.Process(target=side, args=(name, work, settings, threads, other), daemon=True)
        process.start()
        other.close()
        processes.append(process)
        pipes[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(work.num_steps):
        for name in names:
            pipes[name].send("go")
            seconds[name].append(pipes[name].recv()["seconds"])
            print(f"  {name} step {len(seconds[name])}: {seconds[name][-1]:.2f} s", flush=True)
    return {name: {"seconds": seconds[name], **pipes[name].recv()} for name in names}


def figures(work: Work, found: dict[str, Any]) -> dict[str, Any]:
    """What is reported of a side; the first step, in which memory is claimed, is not counted where there are others."""
    counted = found["seconds"][1:] or found["seconds"]
    rows = work.clips_a_step * work.questions
    losses = found["losses"]
    third = max(len(losses) // 3, 1)
    return {
        "rows_per_second": rows / statistics.mean(counted),
        "audio_seconds_per_second": work.clips_a_step * statistics.mean(work.durations()) * work.questions
        / statistics.mean(counted),
        "step_seconds": statistics.mean(counted),
        "peak_gib_above_model": found["peak_gib"],
        "model_gib": found["own_gib"],
        "seconds_of_encoding_once": found["encoding"],  # with `cache_features`, before the first step
        "loss_first_third": statistics.mean(losses[:third]),
        "loss_last_third": statistics.mean(losses[-third:]),
        "steps": len(found["seconds"]),
    }  # fmt: skip


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["transformers", "nothing"], default="transformers")
    parser.add_argument("--questions", type=int, default=5, help="a clip")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0, help="median length of a clip")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="instead of whole epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of our recipe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = tempfile.mkdtemp()
    work = Work(options.clips, options.questions, options.seconds, options.epochs, options.steps, options.seed, folder)
    try:
        write_work(work)
        names = ["ours"] if options.against == "nothing" else ["peer", "ours"]
        found = measure(work, names, options.set, options.threads)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sides = {name: figures(work, found[name]) for name in names}
    result: dict[str, Any] = dict(sides)
    if "peer" in sides:
        result["ratio_rows_per_second"] = sides["ours"]["rows_per_second"] / sides["peer"]["rows_per_second"]
        result["ratio_peak_memory"] = sides["ours"]["peak_gib_above_model"] / sides["peer"]["peak_gib_above_model"]
    result["matrix_gflops"] = matrix_rate(options.threads)
    result["work"] = {key: value for key, value in asdict(work).items() if key != "folder"} | {"steps": work.num_steps}
    result["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "threads": options.threads,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
