"""What both sides of the benchmark train on, and the sizes of their models: clips, questions, a tokenizer of words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
OUR_CLIPS = 5  # in a micro-batch of ours, at the most
OUR_MICRO_BATCHES = 4  # to a step, or more
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
class Sizes:
    """Of encoder and language model, as transformers names them."""

    encoder: dict[str, Any]
    llm: dict[str, Any]  # of a Qwen2
    words: int  # that occur
    lora: dict[str, Any]
    learning_rate: float = 5e-3


def encoder_sizes(width: int, layers: int, heads: int, mels: int = 80) -> dict[str, int]:
    """A Whisper encoder."""
    return {
        "d_model": width, "encoder_layers": layers, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mels,
    }  # fmt: skip


def llm_sizes(width: int, inner: int, layers: int, heads: int, kv: int, vocabulary: int) -> dict[str, Any]:
    """A Qwen2."""
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocabulary, "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }  # fmt: skip


SIZES = {
    "tiny": Sizes(encoder_sizes(32, 1, 2), llm_sizes(32, 64, 2, 2, 1, 500), 500, {"r": 4, "alpha": 8}),
    "small": Sizes(encoder_sizes(384, 4, 6), llm_sizes(512, 1536, 8, 8, 2, 32_000), 32_000, {"r": 8, "alpha": 16}),
    "7b": Sizes(  # Whisper-large-v3 and Qwen2-7B
        encoder_sizes(1280, 32, 20, 128),
        llm_sizes(3584, 18_944, 28, 28, 4, 152_064),
        32_000,
        {"r": 16, "alpha": 32},
        5e-4,
    ),
}


@dataclass(frozen=True)
class Work:
    """What is trained on, the same for both sides."""

    clips: int
    questions: int  # a clip
    seconds: float  # the median length; its logarithm has the deviation `spread`, cut at a quarter and at 3.5 times
    epochs: int
    steps: int | None
    seed: int
    folder: str
    spread: float = 0.45
    size: str = "small"
    device: str = "cpu"
    rows_a_step: int = 40
    peer_batch: int = 8  # rows of a micro-batch of the peer
    batch: int | None = None  # clips of a micro-batch of ours
    quantize: str | None = None  # our language model: nf4, int8

    @property
    def sizes(self) -> Sizes:
        """Of both models."""
        return SIZES[self.size]

    def durations(self) -> list[float]:
        """Seconds of each clip: log-normal."""
        draw = np.random.default_rng(self.seed)
        drawn = np.exp(draw.normal(np.log(self.seconds), self.spread if self.clips > 1 else 0, self.clips))
        return [float(value) for value in drawn.clip(self.seconds / 4, self.seconds * 3.5)]

    def texts(self, clip: int) -> list[tuple[str, str]]:
        """Questions of 8 to 25 words and answers of 1 to 25, in words of a Zipf-like distribution."""
        draw = np.random.default_rng([self.seed, clip])

        def words(count: int) -> str:
            ranks = (draw.pareto(1.0, count) * 20).astype(int) % (self.sizes.words - len(SPECIAL) - 1)
            return " ".join(f"w{rank}" for rank in ranks)

        return [(words(draw.integers(8, 26)), words(draw.integers(1, 26))) for _ in range(self.questions)]

    @property
    def clips_a_step(self) -> int:
        """So that a step has its rows."""
        return max(self.rows_a_step // self.questions, 1)

    @property
    def micro_batches(self) -> int:
        """Of ours to a step, where none are given four, or more where these would hold too many clips."""
        if self.batch:
            return max(self.clips_a_step // self.batch, 1)
        divisors = [n for n in range(1, self.clips_a_step + 1) if self.clips_a_step % n == 0]
        return next(
            (n for n in divisors if n >= OUR_MICRO_BATCHES and self.clips_a_step / n <= OUR_CLIPS), divisors[-1]
        )

    @property
    def workers(self) -> int:
        """Processes that load data, of either side: beside a GPU the mel spectrograms of the peer would hold it up."""
        return 8 if self.device == "cuda" else 0

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


def word_tokenizer(num_words: int) -> Any:
    """One word, one token; the same for both sides."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from audiollm.models.rendering import DEFAULT_CHAT_TEMPLATE

    words = [*SPECIAL, *(f"w{number}" for number in range(num_words - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = DEFAULT_CHAT_TEMPLATE
    return fast
