"""A thin subclass of transformers' Trainer: we own the data loader, the loss, validation, and what is saved.

Everything else (schedules, precision, DeepSpeed, trackers, signals) is the Trainer's.
"""

import functools
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from audiollm.data.collate import Collator
from audiollm.data.dataset import Recordings
from audiollm.data.mixture import Mixture
from audiollm.data.sampling import BatchSampler, BudgetSampler, StreamBudgetSampler, StreamSampler
from audiollm.models.checkpoint import HEADS, MANIFEST, load_tensors, stored_parts, write_checkpoint
from audiollm.models.freezing import part_of
from audiollm.training.bad_rows import BadRows
from audiollm.training.bad_steps import BadSteps
from audiollm.training.muon import Muon, matrices
from audiollm.training.objectives import Objective
from audiollm.training.ranks import written_to
from audiollm.training.resume_points import PREFIX, STATE
from audiollm.training.sharding import shard, shard_optimizer_state, whole_optimizer_state, whole_state
from audiollm.training.stage_model import StageModel
from audiollm.training.throughput import Throughput

Sampler = BatchSampler | BudgetSampler | StreamSampler | StreamBudgetSampler


class EpochLoader(DataLoader):
    """Tells its batch sampler the epoch: the training loop looks for `set_epoch` here."""

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        sampler: Any = self.batch_sampler
        sampler.set_epoch(epoch)


class StageTrainer(Trainer):
    """Trains the parts of one stage over recordings."""

    model: Any  # a StageModel
    model_wrapped: Any
    lr_scheduler: Any
    optimizer: Any

    def __init__(
        self,
        *,
        model: StageModel,
        processor: Any,
        recordings: Recordings,
        sources: list[tuple[int, float]],
        validation: Mapping[str, Recordings],
        collator: Collator,
        learning_rates: Mapping[str, float],
        trained: set[str],
        bad_rows: BadRows,
        bad_steps: BadSteps,
        batch_tokens: int | None = None,
        num_samples: int | None = None,
        group_by_length: bool = True,
        fsdp: bool = False,
        muon: bool = False,
        **kwargs: Any,
    ) -> None:
        self.fsdp, self.muon = fsdp, muon
        super().__init__(
            model=model, train_dataset=recordings, eval_dataset=validation or None, data_collator=collator, **kwargs
        )
        self.processor = processor
        self.recordings = recordings
        self.sources = sources
        self.validation = validation
        self.learning_rates = learning_rates
        self.trained = trained
        self.batch_tokens = batch_tokens
        self.num_samples = num_samples
        self.group_by_length = group_by_length
        self.best: Path | None = None  # the resume point of the best weights, where they are not loaded
        self.bad_rows, self.bad_steps = bad_rows, bad_steps
        bad_rows.accelerator = bad_steps.accelerator = self.accelerator
        self.add_callback(bad_rows)
        self.add_callback(bad_steps)
        self.throughput = Throughput(processor.sampling_rate)
        self.started = time.perf_counter()  # less what was spent before the stage was interrupted
        self.values: dict[str, Any] = defaultdict(float)
        self.items = 0.0  # of all objectives, so far
        self.logged_at = 0  # the step of the last line
        self.saves_every: float = 0
        self.rates: dict[str, float] = {}  # each part's learning rate in this step
        self.loss_is_scaled_for_ga = True  # the objectives divide by the count of the whole step

    @property
    def stage_model(self) -> StageModel:
        """The model that trains, out of whatever wraps it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether DeepSpeed or FSDP2 holds the model: it trains, but is of no other use afterwards."""
        return self.fsdp or self.is_deepspeed_enabled

    # ranks

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """FSDP2 moves to each rank what it keeps; the whole might not fit."""
        if not self.fsdp:
            super()._move_model_to_device(model, device)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Wrap the model for its ranks. FSDP2 is ours; DeepSpeed's resume points hold only what trains."""
        if self.fsdp:
            shard(self.model, self.args.device)
            self.is_distributed_loading_by_transformers = True  # the Trainer then leaves the wrapping to us
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        engine = self.model_wrapped
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        self.bad_steps.sharded_norm = engine.get_global_grad_norm
        if resume_from_checkpoint is not None:
            deepspeed_load_checkpoint(engine, resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def whole_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a checkpoint stores of the model and of the objectives' heads, out of its shards; for all ranks."""
        stage = self.stage_model
        parts = {*stored_parts(stage.model, self.trained | set(stage.model.trained_parts)), "lora", "encoder_lora"}
        state = whole_state(stage.model, lambda name: part_of(name) in parts)
        return state, whole_state(stage.objectives, lambda name: True)

    # data

    def get_train_dataloader(self) -> DataLoader:
        """Batches of recordings for this rank, in an order that the seed and the epoch determine."""
        sampler = train_sampler(
            self.recordings,
            self.sources,
            self.args.train_batch_size,
            self.batch_tokens,
            self.num_samples,
            group_by_length=self.group_by_length,
            seed=self.args.seed,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            accumulation=self.args.gradient_accumulation_steps,
        )
        return self.loader(self.recordings, sampler)

    def loader(self, recordings: Recordings, sampler: Sampler) -> DataLoader:
        """A data loader over batches of keys."""
        workers = self.args.dataloader_num_workers
        return EpochLoader(
            recordings,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            prefetch_factor=(self.args.dataloader_prefetch_factor or 2) if workers else None,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    # loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of one step, and each objective's count over all of them and all ranks: [K] float."""
        if self.state.global_step >= self.state.max_steps:  # killed after its last step: there is none to go on with
            return [], torch.zeros(len(self.stage_model.objectives), device=device)
        asked = time.perf_counter()
        batches = list(islice(epoch_iterator, num_batches))
        self.throughput.add(batches, time.perf_counter() - asked)
        self.rates = {f"lr_{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        return batches, self.count_items(batches, device)

    def count_items(self, batches: list[Any], device: torch.device) -> Tensor:
        """Each objective's items [K] over the micro-batches of all ranks."""
        self.bad_rows.add(batches)
        counts = torch.stack([self.stage_model.counts(batch) for batch in batches]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts[None]).sum(0)
        self.items += float(counts.sum())
        return counts

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The stage's loss; ranks average gradients, so each rank's share is multiplied by their number."""
        loss, values = model(batch=inputs, num_items=num_items_in_batch)
        for name, value in values.items():
            self.values[name] = self.values[name] + value.nan_to_num(0.0, 0.0, 0.0)
        return loss * self.args.world_size

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, whose loss is looked at."""
        rows = inputs["row_ids"]
        return self.bad_steps.note(rows, super().training_step(model, inputs, num_items_in_batch))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """One group of parameters for each part and for the objectives' heads, each with its learning rate."""
        if self.optimizer is None:
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = (Muon if self.muon else cls)(self.parameter_groups(model or self.model), **kwargs)
        return self.optimizer

    def parameter_groups(self, model: Any) -> list[dict[str, Any]]:
        """Trainable parameters by part, with and without weight decay; a group's `part` names it in the log."""
        decayed = set(self.get_decay_parameter_names(model))
        of_muon = matrices(self.stage_model.model) if self.muon else set()  # the objectives' heads are not
        groups: dict[tuple[str, bool, bool], list[Any]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                inner = name.partition("model.")[2]
                part = "heads" if name.startswith("objectives.") else part_of(inner)
                decays = name in decayed and parameter.ndim > 0  # a temperature is no weight
                groups[part, decays, parameter in of_muon].append(parameter)
        return [
            {
                "params": parameters,
                "part": part,
                "lr": self.learning_rates.get(part, max(self.learning_rates.values())),  # heads: as the fastest part
                "weight_decay": self.args.weight_decay if decays else 0.0,
                "muon": by_muon,
            }
            for (part, decays, by_muon), parameters in groups.items()
        ]

    # logging and validation

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each objective's loss, each part's learning rate, the throughput since the last line, and the time."""
        logs = logs | {"seconds": round(time.perf_counter() - self.started, 1), "bad_rows": self.bad_rows.settle()}
        if "loss" in logs:
            loss = self.over_good_steps(logs.pop("loss"))
            logs = logs if loss is None else {"loss": loss} | logs
            if len(self.values) > 1:
                logs |= {name: self.mean_over_steps(value) for name, value in self.values.items()}
            self.values.clear()
            logs |= self.rates
            logs |= self.throughput.take(self.accelerator)
        super().log(logs, start_time)

    def over_good_steps(self, loss: float) -> float | None:
        """The loss a step since the last line without the steps that were skipped, which counted as 0."""
        steps, self.logged_at = self.state.global_step - self.logged_at, self.state.global_step
        good = steps - self.bad_steps.since(self.logged_at - steps)
        return loss * steps / good if good else None

    def mean_over_steps(self, value: Tensor) -> float:
        """An objective's loss a step since the last line, from what it gave over all ranks."""
        return round(float(self.accelerator.reduce(value, "sum")) / max(self.throughput.steps, 1), 5)

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Validation loss by task and over all: nats an item, on every rank the same rows."""
        self.model.eval()
        all_sums = all_counts = torch.zeros(len(self.stage_model.objectives))
        metrics = {}
        for task, recordings in self.validation.items():
            sums, counts = self.validate(recordings)
            metrics[f"{metric_key_prefix}_{task}_loss"] = self.stage_model.weighted(sums / counts.clamp(min=1))
            all_sums, all_counts = all_sums + sums, all_counts + counts
        metrics[f"{metric_key_prefix}_loss"] = self.stage_model.weighted(all_sums / all_counts.clamp(min=1))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validate(self, recordings: Recordings, others: Mapping[str, Objective] | None = None) -> tuple[Tensor, Tensor]:
        """Each objective's loss summed over a validation set [K], and its items [K]; or those of others."""
        lengths = [recordings.seconds(number) for number in range(len(recordings))]
        sampler = BatchSampler(lengths, self.args.per_device_eval_batch_size, shuffle=False)
        asked = self.stage_model.objectives if others is None else others
        sums, items = torch.zeros(2, len(asked), dtype=torch.float64)
        for batch in self.loader(recordings, sampler):
            self.bad_rows.note(batch)
            counts = self.stage_model.counts(batch, others)
            inputs, num_items = self._prepare_inputs(batch), counts.to(self.args.device)
            _, values = self.stage_model(batch=inputs, num_items=num_items, others=others)
            sums += torch.stack([*values.values()]).cpu() * counts
            items += counts
        return sums, items

    # checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Everything that an exact resume needs, under a temporary name that is renamed when it is whole.

        None while steps are skipped: the weights may be what is wrong.
        """
        self.bad_rows.settle()
        if self.bad_steps.in_a_row:
            return
        target = Path(str(self.args.output_dir)) / f"{PREFIX}{self.state.global_step}"
        partial = target.with_name(target.name + ".partial")
        with written_to(target, self.accelerator):
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        self.save_model(str(partial), _internal_call=True)
        self._save_optimizer_and_scheduler(str(partial))
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        with written_to(target, self.accelerator):
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
        with written_to(target, self.accelerator):
            if self.args.should_save:
                self.save_state_of(partial)
                self.put_in_place(partial, target)

    def put_in_place(self, partial: Path, target: Path) -> None:
        """A resume point that is whole gets its name, and older ones are removed."""
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        rotate_checkpoints(
            output_dir=str(self.args.output_dir),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=False,
        )

    def save_state_of(self, folder: Path) -> None:
        """The trainer's own state: step, log history, callbacks."""
        states: Any = self.state.stateful_callbacks
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(folder / STATE))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A small checkpoint of the model and the objectives' heads; no pickled arguments."""
        state, heads = self.whole_state()
        folder = Path(str(output_dir or self.args.output_dir))
        with written_to(folder, self.accelerator):
            if self.args.should_save:
                write_checkpoint(
                    self.stage_model.model, self.processor, folder, trained=self.trained, heads=heads, state=state
                )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Fill the stage's model from a checkpoint that this stage wrote."""
        folder = Path(resume_from_checkpoint)
        stage = self.stage_model
        load_tensors(stage.model, folder, json.loads((folder / MANIFEST).read_text())["stored_parts"])
        if (folder / HEADS).is_file():
            stage.objectives.load_state_dict(load_file(folder / HEADS))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As the library does; FSDP2's whole, for any number of ranks."""
        state = whole_optimizer_state(self.optimizer.state_dict()) if self.fsdp else {}
        with written_to(Path(output_dir), self.accelerator):
            if not self.fsdp:
                self.save_as_the_library_does(output_dir)
            elif self.args.should_save:
                torch.save(state, Path(output_dir, OPTIMIZER_NAME))
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def save_as_the_library_does(self, output_dir: str) -> None:
        """Optimizer and schedule; ranks that have written for DeepSpeed wait for the one that could not."""
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        except (OSError, RuntimeError):
            if self.is_deepspeed_enabled:
                self.accelerator.wait_for_everyone()
            raise

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the library does; FSDP2's is cut into shards."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.fsdp:
            shard_optimizer_state(self.optimizer.state)

    def _load_best_model(self) -> None:
        """The weights of the best validation loss, at the end; those of a sharded model stay where they are."""
        self.best = Path(str(self.state.best_model_checkpoint))
        if not self.is_sharded:
            self._load_from_checkpoint(str(self.best))


def train_sampler(
    recordings: Recordings,
    sources: list[tuple[int, float]],
    batch_size: int,
    batch_tokens: int | None,
    num_samples: int | None,
    *,
    group_by_length: bool = True,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
) -> Sampler:
    """Batches of so many tokens, for recordings that were measured, or else of so many recordings."""
    shared: Any = {"seed": seed, "rank": rank, "world_size": world_size}
    mixture = recordings.groups
    if isinstance(mixture, Mixture):
        samples = num_samples or len(mixture)
        shared["group_by_length"] = group_by_length
        if batch_tokens:
            return StreamBudgetSampler(mixture, batch_tokens, samples, **shared)
        return StreamSampler(mixture, batch_size, samples, accumulation=accumulation, **shared)
    lengths = [recordings.seconds(number) if group_by_length else 0.0 for number in range(len(recordings))]
    if batch_tokens:
        return BudgetSampler(recordings.num_tokens, lengths, batch_tokens, sources=sources, **shared)
    return BatchSampler(lengths, batch_size, sources=sources, accumulation=accumulation, **shared)
