"""The two sides: transformers' Trainer on Qwen2-Audio, and the road of `audiollm train`, whole or with a saving off."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from workload import RATE, Work, word_tokenizer

CONNECTOR = 512
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


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
    tokenizer = word_tokenizer(work.sizes.words)
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=work.sizes.encoder["num_mel_bins"]), tokenizer)
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**work.sizes.encoder).to_dict(),
        text_config=Qwen2Config(**work.sizes.llm).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    with torch.device(work.device):
        model = Qwen2AudioForConditionalGeneration(config)
    model.to(DTYPES[work.device])
    model.requires_grad_(False)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    lora = LoraConfig(
        r=work.sizes.lora["r"], lora_alpha=work.sizes.lora["alpha"], target_modules=targets, lora_dropout=0.0
    )
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
        output_dir=str(folder / "peer"), per_device_train_batch_size=work.peer_batch,
        gradient_accumulation_steps=work.rows_a_step // work.peer_batch, max_steps=work.num_steps,
        learning_rate=work.sizes.learning_rate,
        lr_scheduler_type="constant", use_cpu=work.device == "cpu", bf16=work.device == "cuda", logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential", remove_unused_columns=False, report_to=[], disable_tqdm=True,
        dataloader_pin_memory=work.device == "cuda", dataloader_num_workers=work.workers,
    )  # fmt: skip
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows[: (work.num_steps + 1) * work.rows_a_step],  # type: ignore[arg-type]
        data_collator=collate,
        callbacks=[gate],
    )


def build_ours(work: Work, gate: Any, settings: list[str], without: str | None = None) -> Any:
    """The trainer that `audiollm train` makes for a stage of a recipe."""
    import yaml

    from audiollm.data.dataset import SoundCache
    from audiollm.models.parts import build
    from audiollm.models.quantize import check_scheme, quantize_linears
    from audiollm.recipe import load_recipe
    from audiollm.training import kernels, stages
    from audiollm.training.features import fill, open_store

    folder = Path(work.folder)
    rows = str(folder / "rows.jsonl")
    encoder = {"name": "whisper", "config": work.sizes.encoder}
    connector = {
        "name": "mlp",
        "stack": 2,
        "hidden_size": CONNECTOR,
    }  # 25 audio tokens a second, as the peer's pooling gives
    tokenizer = {"tokenizer": {"train_on": rows, "vocab_size": 1000}}  # not used: both sides have one of whole words
    llm = {"config": {"model_type": "qwen2", **work.sizes.llm}}
    stage = {
        "train": {"lora": work.sizes.learning_rate},
        "objectives": {"language_modeling": 1},
        "lora": {**work.sizes.lora, "target_modules": ["q_proj", "v_proj"]},
        "data": {"train": [rows]},
        "trainer": {
            "max_steps": work.num_steps, "per_device_train_batch_size": work.clips_a_step // work.micro_batches,
            "gradient_accumulation_steps": work.micro_batches, "logging_steps": 1,
            "lr_scheduler_type": "constant", "save_steps": 100_000, "report_to": [],
            "use_cpu": work.device == "cpu", "bf16": work.device == "cuda", "dataloader_num_workers": work.workers,
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
    with torch.device(work.device):
        built = build(
            encoder=encoder, connector=connector, llm=llm, tokenizer=word_tokenizer(work.sizes.words),
            dtype=DTYPES[work.device],
        )  # fmt: skip
    if work.quantize:
        quantize_linears(built.model.model.language_model, check_scheme(work.quantize))
    settled = recipe.stages["instruct"]
    stages.prepare_model(built, settled)
    kernels.prepare_attention(built.model.model.language_model, recipe.model.attn_implementation)
    if without:
        switch_off(without, built.model)
    objectives = stages.build_objectives(settled, built)
    data = stages.StageData.load(recipe, settled)
    tower = built.model.model.audio_tower
    store = open_store(recipe, tower) if settled.data.cache_features else None
    run = stages.RunFolder.open(folder / "ours")
    trainer = stages.build_trainer(
        recipe, "instruct", built, objectives, data, run, SoundCache(2**30), stages.Sharding(), store
    )
    if store is not None:
        started = time.perf_counter()
        fill(store, tower, [trainer.recordings], trainer.accelerator)
        trainer.encoding_seconds = time.perf_counter() - started  # type: ignore[attr-defined]
    trainer.add_callback(gate)
    return trainer


# ------------------------------------------------------------------------------------------------ a saving switched off


def dense_mask(model: Any) -> None:
    """Attention by a dense mask over rows of like length, in place of clip by clip."""
    model.model.language_model.set_attn_implementation("sdpa")


def own_audio(model: Any) -> None:
    """Each question hears its clip by itself."""
    from audiollm.training import stages

    stages.Recordings = partial(ours_alone, stages.Recordings)  # type: ignore[misc, assignment]


def ours_alone(recordings: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Recordings that do not share."""
    return recordings(*args, **{**kwargs, "share_audio": False})


def whole_windows(model: Any) -> None:
    """The encoder reads every clip padded to its window of 30 s; what it makes of the padding is cut off."""
    from audiollm.models.encoders.base import frames_mask

    tower = model.model.audio_tower
    stride = 2 * tower.hop
    hear, full = tower.hear, stride * tower.config.max_source_positions

    def padded(windows_ML: Any, lengths_M: Any, taps: Any) -> tuple[Any, Any]:
        silent_ML = windows_ML * frames_mask(lengths_M, windows_ML.shape[1])
        whole_ML = F.pad(silent_ML, (0, full - windows_ML.shape[1]))
        states, _ = hear(whole_ML, torch.full_like(lengths_M, full), taps)
        frames_M = -(-lengths_M // stride)
        longest = int(frames_M.max())
        return [state[:, :longest] for state in states], frames_mask(frames_M, longest)

    tower.hear = padded


def all_logits(model: Any) -> None:
    """The vocabulary projection at every position, in one piece."""

    def loss(hidden_BSD: Any, shift_labels_BS: Any, num_items: Any) -> Any:
        logits = model.project(hidden_BSD).float()
        return F.cross_entropy(logits.flatten(0, 1), shift_labels_BS.flatten(), reduction="sum") / num_items

    model.loss = loss


def gradient_of_the_frozen(model: Any) -> None:
    """The graph of the frozen encoder and connector is kept, and gone through backwards."""
    tower = model.model.audio_tower
    model.model.get_audio_frames = lambda values, mask, kept=None: tower(values.requires_grad_(), mask)


SAVINGS: dict[str, Callable[[Any], None]] = {
    "attention by blocks": dense_mask,
    "shared audio": own_audio,
    "real clip length": whole_windows,
    "projection at supervised positions": all_logits,
    "no gradient through frozen parts": gradient_of_the_frozen,
}


def switch_off(saving: str, model: Any) -> None:
    """One saving off, in this process."""
    SAVINGS[saving](model)
