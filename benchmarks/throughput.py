"""Rows a second and memory of training, against transformers' own Qwen2-Audio on the same work.

    python benchmarks/throughput.py --against transformers --json throughput.json
    python benchmarks/throughput.py --against nothing --ablate --steps 20          # what each saving is worth
    python benchmarks/throughput.py --against nothing --questions 1,2,5,10 --steps 20
    python benchmarks/throughput.py --against nothing --seconds 2,10,30,120 --steps 20
    python benchmarks/throughput.py --against nothing --cached-features --steps 20
    python benchmarks/throughput.py --against nothing --ranks 1,2 --threads 1 --steps 20
    python benchmarks/throughput.py --device cuda --size 7b --rows 320 --batch 16 --clips 256 --steps 8

Both sides train the same clips, questions, sizes and steps, each in a process of its own; they take turns step by step,
so that a machine whose speed drifts is as fast for one as for the other.

    peer   Qwen2AudioForConditionalGeneration, its processor, a usual collator, plain Trainer, micro-batches of 8 rows
    ours   the road of `audiollm train`
    kept   the same from its second epoch on, where the encoder's output is kept (--cached-features)

What a row costs is what a user waits for it: reading the recording, features, forward, backward, optimizer. Several
values of one option are measured one after another. Utilisation is in the convention of flops.py.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from flops import language_model_flops, language_model_seconds, listening_flops, matrix_rate
from sides import SAVINGS, build_ours, build_peer
from workload import SIZES, Work, write_work


@dataclass(frozen=True)
class Run:
    """How a side is run."""

    side: str  # peer, ours, which is also run with kept features
    threads: int
    settings: list[str] = field(default_factory=list)  # of our recipe
    without: str | None = None  # a saving that is off
    ranks: int = 1


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

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == state.max_steps:  # what follows is a checkpoint, which the peer does not write
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                connection.send({"seconds": time.perf_counter() - (self.since or 0.0)})

    return Gate()


def memory_gib(field: str) -> float:
    """A line of /proc/self/status in GiB: VmRSS now, VmHWM the most since it was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def peak_begins(device: str) -> float:
    """GiB in use now; the peak counts from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")
    return memory_gib("VmRSS")


def side(run: Run, work: Work, rank: int, port: int, connection: Any) -> None:
    """One process: build, train step by step, tell the losses, the memory and the operations."""
    torch.set_num_threads(run.threads)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders, as in a process that was not spawned
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if run.ranks > 1:  # as torchrun does
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(run.ranks)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(run.ranks), "OMP_NUM_THREADS": str(run.threads)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gate = gate_of(connection)
    is_peer = run.side == "peer"
    trainer = build_peer(work, gate) if is_peer else build_ours(work, gate, run.settings, run.without)
    own = peak_begins(work.device)
    connection.send({"ready": own})
    trainer.train()
    scale = trainer.args.gradient_accumulation_steps if is_peer else 1  # Qwen2-Audio's mean is not divided
    losses = [entry["loss"] / scale for entry in trainer.state.log_history if "loss" in entry]
    peak = (torch.cuda.max_memory_allocated() / 2**30 if work.device == "cuda" else memory_gib("VmHWM")) - own
    told = {"losses": losses, "peak_gib": peak, "own_gib": own, "encoding": getattr(trainer, "encoding_seconds", 0.0)}
    if not is_peer:
        told["waits"] = [entry["data_wait_share"] for entry in trainer.state.log_history if "data_wait_share" in entry]
    connection.send({"done": True})
    connection.recv()  # all sides are done: what follows has the machine for itself
    if not is_peer and run.without is None and not work.quantize:
        told |= operations(trainer, work)
    connection.send(told)


def operations(trainer: Any, work: Work) -> dict[str, float]:
    """GFLOP of a row by the convention, over an epoch, and the language model's rate in batches short and long."""
    model = trainer.stage_model.model
    batches = sorted(trainer.get_train_dataloader(), key=lambda batch: batch["input_ids"].numel())
    some = [trainer._prepare_inputs(batches[len(batches) * eighth // 8]) for eighth in (1, 3, 5, 7)]
    with trainer.compute_loss_context_manager():
        seconds = language_model_seconds(model, some)
    rate = matrix_rate(work.device, torch.get_num_threads())  # here, and not in another minute of a machine that drifts
    timed = sum(language_model_flops(model, batch) for batch in some) / 1e9
    whole = sum(language_model_flops(model, batch) + listening_flops(model, batch) for batch in batches) / 1e9
    rows = sum(len(batch["row_ids"]) for batch in batches)
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    shared = sum(int((batch["branch_ids"] == 0).sum()) for batch in batches)  # what each row would have for itself
    return {
        "gflop_a_row": whole / rows,
        "language_model_gflop_per_second": timed / seconds,
        "matrix_gflops": rate,
        "tokens_a_row": tokens / rows,
        "tokens_a_row_alone": (tokens + (work.questions - 1) * shared) / rows,
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(work: Work, runs: dict[str, Run]) -> dict[str, dict[str, Any]]:
    """Seconds of each step, losses and memory of each run, the runs taking turns; of several ranks the first tells."""
    processes: list[Any] = []
    try:
        return take_turns(work, runs, processes)
    finally:
        for process in processes:  # which have ended, unless one of them failed
            process.terminate()


def take_turns(work: Work, runs: dict[str, Run], processes: list[Any]) -> dict[str, dict[str, Any]]:
    """Start every run, in processes that are added to the list, and let them step by turns."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, list[Any]] = {}
    for name, run in runs.items():
        port, pipes[name] = free_port(), []
        for rank in range(run.ranks):
            pipe, other = context.Pipe()
            processes.append(context.Process(target=side, args=(run, work, rank, port, other)))
            processes[-1].start()
            other.close()
            pipes[name].append(pipe)
        for pipe in pipes[name]:
            pipe.recv()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(work.num_steps):
        for name in runs:
            for pipe in pipes[name]:
                pipe.send("go")
            seconds[name].append(max(pipe.recv()["seconds"] for pipe in pipes[name]))
            print(f"  {name} step {len(seconds[name])}: {seconds[name][-1]:.2f} s", flush=True)
    for name in runs:
        for pipe in pipes[name]:
            pipe.recv()
    return {name: {"seconds": seconds[name], **tell(pipes[name])} for name in runs}


def tell(pipes: list[Any]) -> dict[str, Any]:
    """What the first rank of a run tells, when its turn has come."""
    for pipe in pipes:
        pipe.send("tell")
    return dict(pipes[0].recv())


def figures(work: Work, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """What is reported of a run; the first step, in which memory is claimed, is not counted where there are others."""
    step = statistics.mean(found["seconds"][1:] or found["seconds"])
    rows = work.clips_a_step * work.questions * run.ranks
    losses = found["losses"]
    third = max(len(losses) // 3, 1)
    told = {
        "rows_per_second": rows / step,
        "audio_seconds_per_second": rows * statistics.mean(work.durations()) / step,
        "step_seconds": step,
        "peak_gib_above_model": found["peak_gib"],
        "model_gib": found["own_gib"],
        "seconds_of_encoding_once": found["encoding"],  # with kept features, before the first step
        "loss_first_third": statistics.mean(losses[:third]),
        "loss_last_third": statistics.mean(losses[-third:]),
        "steps": len(found["seconds"]),
    }
    if found.get("waits"):  # a share of the step and of the other side's turn, where there is one
        told["data_wait_share"] = statistics.mean(found["waits"][1:] or found["waits"])
    if "gflop_a_row" in found:
        told["tokens_per_second"] = found["tokens_a_row"] * rows / step
        told["tokens_per_second_as_separate_rows"] = found["tokens_a_row_alone"] * rows / step
        told["matrix_gflops"] = found["matrix_gflops"]
        told["utilisation_whole_step"] = found["gflop_a_row"] * rows / step / run.ranks / found["matrix_gflops"]
        told["utilisation_language_model"] = found["language_model_gflop_per_second"] / found["matrix_gflops"]
    return told


def against(work: Work, runs: dict[str, Run]) -> dict[str, Any]:
    """Measure the runs on new recordings; what each gave, and ratios of ours to the peer's."""
    folder = tempfile.mkdtemp()
    work = replace(work, folder=folder)
    try:
        write_work(work)
        found = measure(work, runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result: dict[str, Any] = {name: figures(work, run, found[name]) for name, run in runs.items()}
    if "peer" in result:
        for ratio, key in {"rows_per_second": "rows_per_second", "peak_memory": "peak_gib_above_model"}.items():
            result[f"ratio_{ratio}"] = result["ours"][key] / result["peer"][key]
    if "peer" in result and "kept" in result:
        result["ratio_kept_features"] = result["kept"]["rows_per_second"] / result["peer"]["rows_per_second"]
    result["work"] = {key: value for key, value in asdict(work).items() if key != "folder"} | {"steps": work.num_steps}
    return result


def ablation(work: Work, ours: Run, savings: list[str]) -> dict[str, Any]:
    """Each saving off in turn, beside everything on: a pair of runs that take turns, for each."""
    rows = {}
    for saving in savings:
        result = against(work, {"ours": ours, "without": replace(ours, without=saving)})
        on, off = result["ours"], result["without"]
        rows[saving] = {
            "rows_per_second": off["rows_per_second"],
            "peak_gib_above_model": off["peak_gib_above_model"],
            "speed_ratio": on["rows_per_second"] / off["rows_per_second"],
            "memory_ratio": on["peak_gib_above_model"] / off["peak_gib_above_model"],
            "everything_on": on,
        }
    print(f"\n{'switched off':36} rows/s   GiB   all on: speed, memory")
    for saving, row in rows.items():
        print(
            f"{saving:36} {row['rows_per_second']:6.2f} {row['peak_gib_above_model']:5.2f}"
            f"   x {row['speed_ratio']:.2f}, x {row['memory_ratio']:.2f}"
        )
    return rows


def numbers(kind: type) -> Any:
    """One number, or several with commas between."""
    return lambda text: [kind(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["transformers", "nothing"], default="transformers")
    parser.add_argument(
        "--ablate", nargs="*", choices=[*SAVINGS], help="each saving, or each that is named, switched off in turn"
    )
    parser.add_argument("--questions", type=numbers(int), default=[5], help="a clip; several: 1,2,5,10")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=numbers(float), default=[8.0], help="median length; of several, the length")
    parser.add_argument("--ranks", type=numbers(int), default=[1], help="processes of ours; several: 1,2")
    parser.add_argument("--cached-features", action="store_true", help="also with the encoder's output kept on disk")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="instead of whole epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=40, help="of an optimizer step")
    parser.add_argument("--batch", type=int, help="clips of a micro-batch of ours")
    parser.add_argument("--peer-batch", type=int, default=8, help="rows of a micro-batch of the peer")
    parser.add_argument("--quantize", choices=["nf4", "int8"], help="our language model")
    parser.add_argument("--threads", type=int, default=2, help="of a process")
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of our recipe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.against == "transformers" and options.ranks != [1]:
        parser.error("--ranks is of ours alone: add --against nothing")
    return options


def main() -> None:
    """Parse, measure, print, write."""
    options = parse()
    spread = 0.45 if len(options.seconds) == 1 else 0.0
    results = []
    for questions, seconds, ranks in product(options.questions, options.seconds, options.ranks):
        work = Work(
            options.clips, questions, seconds, options.epochs, options.steps, options.seed, "", spread, options.size,
            options.device, options.rows, options.peer_batch, options.batch, options.quantize,
        )  # fmt: skip
        ours = Run("ours", options.threads, options.set, ranks=ranks)
        kept = replace(ours, settings=[*options.set, "stages.instruct.data.cache_features=true"])
        if options.ablate is not None:
            result: dict[str, Any] = {"ablation": ablation(work, ours, options.ablate or [*SAVINGS])}
        else:
            peer = {"peer": Run("peer", options.threads)} if options.against == "transformers" else {}
            result = against(work, {**peer, "ours": ours, **({"kept": kept} if options.cached_features else {})})
        results.append({**result, "questions": questions, "seconds": seconds, "ranks": ranks})
    whole = results[0] if len(results) == 1 else {"runs": results}
    whole["machine"] = {
        "cpu": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    print(json.dumps(whole, indent=1))
    if options.json:
        options.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
