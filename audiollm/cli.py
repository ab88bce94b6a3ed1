"""The commands: each takes its words from the terminal and calls the package. No logic, and nobody imports it.

What a command needs is imported inside it, so that `audiollm --help` answers at once.
"""

import contextlib
import functools
import importlib.util
import json
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from audiollm import __version__

app = typer.Typer(
    name="audiollm",
    help="Build, train and judge language models that listen.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that differ.")]
Checkpoint = Annotated[str, typer.Argument(help="Folder of a run or of one of its stages, or a name on the Hub.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, typer.Option(help="Language model in nf4 (4 bits), int8, or none; as it was trained.")]
Adapter = Annotated[
    str | None, typer.Option(metavar="CHECKPOINT", help="Its LoRA in place of this one's; same base and connector.")
]
LoraScale = Annotated[
    float | None, typer.Option(min=0, help="Multiplies what LoRA adds: 0 is the base, 1 all of it; as it was trained.")
]

OVERWRITE = "Make anew what was made with other options, from a source that has changed, or by an older converter."

EXTRAS = {"espeakng_loader": "demo", "deepspeed": "deepspeed", "bitsandbytes": "quant"}
"""Modules that not everybody needs, and the extra that installs each."""


def main() -> None:
    """The `audiollm` command."""
    try:
        app()
    finally:
        _flush()


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a command whose failures are told in one sentence."""
    app.command()(in_one_sentence(function))
    return function


def in_one_sentence(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a user's mistake into one sentence and exit code 2, and an interruption into one line and 130 or 143.

    AUDIOLLM_TRACEBACK=1 shows where it happened.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt as stopped:
            _complain(
                f"Stopped{f' {stopped}' if stopped.args else ''}. Given again, the same command goes on where it can."
            )
            raise typer.Exit(128 + getattr(stopped, "number", signal.SIGINT)) from None
        except BrokenPipeError:
            raise typer.Exit(141) from None  # whoever read our output has left, as `head` does
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("AUDIOLLM_TRACEBACK"):
                raise
            _complain(_in_words(error))
            raise typer.Exit(2) from None

    return run


def folder_option(help: str) -> Any:
    """An option whose value is a folder that is there or will be made."""
    return typer.Option(metavar="DIRECTORY", callback=_require_folder, help=help)


def file_option(help: str) -> Any:
    """An option whose value is a file that will be written."""
    return typer.Option(dir_okay=False, callback=_require_place, help=help)


def _require_folder(path: Path | None) -> Path | None:
    if path is not None and path.exists() and not path.is_dir():
        _complain(f"{path} is a file, and a folder is asked for; give another name, or the folder that it lies in")
        raise typer.Exit(2)
    return _require_place(path)


def _require_place(path: Path | None) -> Path | None:
    for above in () if path is None else path.parents:
        if above.is_file():
            _complain(f"{above} is a file, and {path} would lie in it; give another name")
            raise typer.Exit(2)
    return path


@command
def train(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe (see `audiollm recipes`), a file, or its folder.")],
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="Train this stage alone; those before it must be done.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and train nothing.")] = False,
    deepspeed: Annotated[
        str | None, typer.Option(metavar="NAME_OR_FILE", help="Shard with DeepSpeed: zero1, zero2, zero3 ...")
    ] = None,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard with FSDP2.")] = False,
) -> None:
    """Train the stages of a recipe, then evaluate and report; what is done already is skipped."""
    from audiollm import training
    from audiollm.recipe import load_recipe, require_files, require_stage
    from audiollm.resources import deepspeed_file

    if os.environ.get("RANK", "0") != "0":
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the first process speaks for all
    loaded = load_recipe(recipe, overrides or [])
    sharding = str(deepspeed_file(deepspeed)) if deepspeed else None
    if deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise ImportError("--deepspeed needs DeepSpeed: pip install 'audiollm[deepspeed]'")
    launcher = f"torchrun --nproc-per-node 8 -m audiollm train {recipe}"
    if deepspeed and not fsdp and not dry_run and "WORLD_SIZE" not in os.environ:
        raise ValueError(f"--deepspeed needs a launcher: {launcher} --deepspeed {deepspeed}")
    if fsdp and (deepspeed or (not dry_run and int(os.environ.get("WORLD_SIZE", "1")) < 2)):
        cause = "goes without --deepspeed" if deepspeed else "shards over several ranks"
        raise ValueError(f"--fsdp {cause}: {launcher} --fsdp")
    if dry_run:
        training.dry_run(loaded, deepspeed=sharding, fsdp=fsdp)
        return
    from audiollm.curation.prepare import prepare_all
    from audiollm.evaluation.judge import judge, show_answers

    require_files(loaded)
    require_stage(loaded, stage)  # said before the rows are made, which takes a while
    steps = {name: (loaded.prepared_folder(name), options) for name, options in loaded.prepare.items()}
    prepare_seconds = prepare_all(steps)
    training.run_recipe(loaded, stage=stage, deepspeed=sharding, fsdp=fsdp, sample=show_answers)
    if stage is None and os.environ.get("RANK", "0") == "0":
        judge(loaded, prepare_seconds=prepare_seconds)


@command
def prepare(
    name: Annotated[
        str | None, typer.Argument(help="A converter, such as esc50, or a YAML file that maps columns.")
    ] = None,
    options: Overrides = None,
    source: Annotated[str | None, typer.Option(help="Folder of the set, or OWNER/NAME on the Hub.")] = None,
    out: Annotated[Path | None, folder_option("Folder for rows and recordings; data/NAME if not said.")] = None,
    split: Annotated[str | None, typer.Option(help="One split of the source; all if not said.")] = None,
    audio: Annotated[
        str | None, typer.Option(help="paths, embed (Parquet) or flac (16 kHz); auto if not said.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of the source, of each split.")] = None,
    num_proc: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="This machine's part: 1/8 to 8/8.")] = None,
    map_: Annotated[
        str | None, typer.Option("--map", metavar="COLUMNS", help="audio=COLUMN text=COLUMN task=TASK ...")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    push: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Upload it then, as `audiollm push`; private on the Hub.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the converters that there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: all that is known of each.")] = False,
) -> None:
    """Make the rows of a data set; without a name, list the data sets."""
    from audiollm.curation.catalogue import catalogue, print_catalogue
    from audiollm.curation.prepare import parse_options
    from audiollm.curation.prepare import prepare as make

    what = map_ or name
    if list_ or what is None:
        print(json.dumps(catalogue(), indent=2)) if as_json else print_catalogue()
        return
    words = [*(options or []), *([name] if map_ and name else [])]
    given = {"source": source, "split": split, "audio": audio, "limit": limit, "num_proc": num_proc, "shard": shard}
    said = {key: value for key, value in given.items() if value is not None}
    folder = out or Path("data", "mapped" if map_ else Path(what).stem)
    if push is None:
        make(what, folder, parse_options(words) | said, overwrite=overwrite)
        return
    from audiollm.curation.publishing import check_target, publish
    from audiollm.data.hub import is_stored

    check_target(push)
    if shard is not None:
        raise ValueError("--push is for a set that one machine makes; push the folder when all shards are there")
    make(what, folder, parse_options(words) | said, overwrite=overwrite)
    print(publish(folder, push, private=not is_stored(push)).summary())


@command
def convert(
    rows: Annotated[str, typer.Argument(help="File, folder or pattern of rows in any format that is read.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="rows, ms-swift, llama-factory, nvidia, ltu, salmonn, desta, sift, openai, mcq, audiollms, manifest "
            "or webdataset.",
        ),
    ],
    out: Annotated[Path | None, file_option("File; the rows' name with the format in it if not said.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Where it cannot be told.")] = None,
) -> None:
    """Write rows in the format of another tool."""
    from audiollm.data.foreign import FORMATS_TO_WRITE, convert_to, file_for
    from audiollm.data.sources import Problems, load_rows, refuse_overwriting
    from audiollm.models.settings import nearest
    from audiollm.report.figures import counted, visible

    if to not in FORMATS_TO_WRITE:
        raise ValueError(f"--to: {to!r} is not a format to write; {nearest(to, FORMATS_TO_WRITE)}")
    path = file_for(rows, to, out)
    refuse_overwriting(rows, [path])
    problems = Problems()
    loaded = load_rows(rows, format=from_, problems=problems)
    dropped: Counter[str] = Counter()
    number, unsayable = convert_to(loaded, to, path, dropped)
    problems.extend(unsayable)
    if not number:
        raise ValueError(f"{rows}: there is no row to write" + f"; {problems.summary()}" * (problems.count > 0))
    print(
        f"{path}: {counted(number, 'row')} of format {to}"
        + (f"; left out: {problems.summary()}" if problems.count else "")
    )
    if dropped:
        (field, rows_with), *others = dropped.most_common()
        told = [f"{field} ({counted(rows_with, 'row')})", *(f"{name} ({count:,})" for name, count in others)]
        print(visible(f"not in {to}: {', '.join(told)}"))
    if problems.count:
        raise typer.Exit(1)


@command
def check(
    rows: Annotated[str, typer.Argument(help="File, folder or pattern of rows in any format that is read.")],
    out: Annotated[Path, folder_option("Folder for clean.jsonl, quarantine.jsonl and noticed.jsonl.")] = Path(
        "checked"
    ),
    headers: Annotated[bool, typer.Option("--headers", help="Open recordings without decoding them.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Check the first so many rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    keep_repeated: Annotated[
        bool, typer.Option("--keep-repeated", help="Count rows with the id of an earlier one, and keep them.")
    ] = False,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    from_: Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Where it cannot be told.")] = None,
    question: Annotated[str | None, typer.Option(help="What tables and folders without questions ask.")] = None,
) -> None:
    """Check rows and the recordings that they name; keep the good ones, and name the others."""
    from audiollm.curation.check import check as check_rows

    checked = check_rows(
        rows, out, format=from_, question=question, headers=headers, limit=limit, strict=strict,
        keep_repeated=keep_repeated, num_proc=num_proc,
    )  # fmt: skip
    print(checked.summary())
    if checked.left_out:
        raise typer.Exit(1)


@command
def inspect(
    rows: Annotated[str, typer.Argument(help="File, folder or pattern of rows.")],
    out: Annotated[Path, file_option("File of the page.")] = Path("inspection.html"),
    sound: Annotated[str, typer.Option(metavar="N", help="Recordings to decode, drawn by lot; or all.")] = "1000",
    window: Annotated[float, typer.Option(min=0, help="Seconds that the encoder hears at once.")] = 30.0,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Or a tokenizer: count its tokens, show rows in its chat template."),
    ] = None,
    supervise: Annotated[
        str | None, typer.Option(metavar="last|all", help="Answers marked in it, as in a recipe's `data`; the last.")
    ] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn by lot.")] = 0,
    from_: Annotated[
        str | None, typer.Option("--from", "--format", metavar="FORMAT", help="Where it cannot be told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON instead of tables.")] = False,
) -> None:
    """Show what rows hold before a model is trained on them: figures here, a page with sound in a file."""
    from audiollm.curation.inspecting import inspect_rows, parse_sound
    from audiollm.curation.reading import read_rows, reader_of
    from audiollm.data.sources import refuse_overwriting
    from audiollm.report.figures import counted
    from audiollm.report.inspection import print_inspection, write_inspection

    refuse_overwriting(rows, [out])
    reader = reader_of(tokenizer, supervise)
    found, examples = inspect_rows(
        rows, format=from_, tokenizer=tokenizer, window_s=window, sound=parse_sound(sound), num_proc=num_proc,
        seed=seed,
    )  # fmt: skip
    found, readings = read_rows(found, examples, reader)
    page = write_inspection(out, found, examples, readings)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_inspection(found)
        print(f"{page}: the page, with {counted(len(examples), 'row')} to listen to")


@command
def overlap(
    train: Annotated[str, typer.Argument(help="File, folder or pattern of rows.")],
    with_: Annotated[
        str | None, typer.Option("--with", metavar="EVAL", help="Rows to compare with; without it, TRAIN with itself.")
    ] = None,
    out: Annotated[Path | None, file_option("Write the pairs, a JSON object a line.")] = None,
    index: Annotated[Path, folder_option("Folder for fingerprints, which are made once for the same content.")] = Path(
        "data/fingerprints"
    ),
    num_proc: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    refuse: Annotated[
        bool, typer.Option("--refuse", help="Exit with 1 where anything is shared, or could not be compared.")
    ] = False,
) -> None:
    """Find recordings that two sets share, or that come twice in one, by the names of sources and by sound."""
    from audiollm.curation.overlap import find_overlap
    from audiollm.data.sources import refuse_overwriting

    for read in filter(None, (train, with_)):
        refuse_overwriting(read, [out] if out else [])
    found = find_overlap(train, with_, folder=index, num_proc=num_proc)
    print(found.summary())
    if out is not None:
        found.write(out)
        print(f"pairs: {out}")
    if refuse and (found.pairs or found.unread):
        raise typer.Exit(1)


@command
def generate(
    rows: Annotated[str | None, typer.Argument(help="Rows with descriptions, captions or transcripts.")] = None,
    out: Annotated[Path | None, file_option("File for the new rows, .jsonl; FILE.cache/ keeps results.")] = None,
    template: Annotated[str, typer.Option(help="A packaged one (--list), or a .yaml file.")] = "sound_questions",
    model: Annotated[
        str | None, typer.Option(help="Language model: a folder, a name on the Hub or of the endpoint.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible address; without it, the model runs here.")
    ] = None,
    key_from: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="Environment variable of the key; AUDIOLLM_API_KEY if not said."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pairs for each recording.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about the first so many.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other texts.")] = 0,
    from_: Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Where it cannot be told.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once, to an endpoint.")] = 8,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one reply of an endpoint.")] = 120.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at once, of a local model.")] = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Annotated[str | None, typer.Option(help="Of a model on the Hub.")] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(metavar="PROMPT COMPLETION", help="Per million tokens.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the templates that there are.")] = False,
) -> None:
    """Let a language model write questions and answers out of what is known about recordings in words."""
    from audiollm.curation.generate import generate as make
    from audiollm.curation.generate import load_template, templates
    from audiollm.curation.writers import EndpointWriter, Writer, load_local
    from audiollm.curation.writers import key_from as read_key
    from audiollm.resources import opening_line

    if list_:
        for name, path in templates().items():
            print(f"{name:20} {opening_line(path)}")
        return
    if rows is None or out is None or model is None:
        raise ValueError("give the rows, --model and --out FILE; `audiollm generate --list` shows the templates")
    load_template(template)  # what is wrong with it is said before a model is loaded
    writer: Writer
    if endpoint:
        writer = EndpointWriter(endpoint, model, key=read_key(key_from), concurrency=concurrency, timeout_s=timeout)
    else:
        writer = load_local(model, device=device, dtype=dtype, revision=revision, batch_size=batch_size)
    result = make(rows, out, template, writer, count=count, seed=seed, limit=limit, format=from_)
    print(f"{out}: {result.summary(price)}\nleft out, one by one: {out}.cache/dropped.jsonl")


@command
def join(
    rows: Annotated[str, typer.Argument(help="File, folder or pattern of rows in any format that is read.")],
    recordings: Annotated[
        list[Path], typer.Option(help="Folder or archive with recordings; may be given several times.")
    ],
    out: Annotated[
        Path, folder_option("Folder for joined, missing, ambiguous and broken.jsonl, and recordings.")
    ] = Path("joined"),
    from_: Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Where it cannot be told.")] = None,
    question: Annotated[str | None, typer.Option(help="What tables without questions ask.")] = None,
) -> None:
    """Find the recordings that rows name and their set does not bring, by name, in folders and archives."""
    from audiollm.curation.joining import join as join_rows

    joined = join_rows(rows, recordings, out, format=from_, question=question)
    print(joined.summary())
    if not joined.total.found:
        raise typer.Exit(1)
    print(f"found by name, not opened: `audiollm check {shlex.quote(str(out / 'joined.jsonl'))}` opens the recordings")


@command
def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Option(metavar="ROWS", help="File, folder or pattern of rows with right answers.")],
    blind: Annotated[bool, typer.Option("--blind", help="Ask everything without the audio too.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    adapter: Adapter = None,
    lora_scale: LoraScale = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    template: Annotated[
        str | None, typer.Option(help="How two towers are told a label; 'This is a sound of {label}.' if not said.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask the first so many rows.")] = None,
    out: Annotated[Path | None, file_option("File for the answers, one JSON line each.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON instead of a table.")] = False,
) -> None:
    """Ask a model the questions of some rows and score its answers, task by task."""
    from audiollm import matching, report
    from audiollm.data.sources import Problems, load_rows
    from audiollm.evaluation import judge
    from audiollm.recipe import LABEL_TEMPLATE, check_template

    problems = Problems()
    rows = load_rows(data, problems=problems)[:limit]
    opened = matching.load_either(
        checkpoint, device=device, dtype=dtype, quantize=quantize, adapter=adapter, lora_scale=lora_scale
    )
    result = judge.score(
        opened, rows, blind=blind, batch_size=batch_size, max_new_tokens=max_new_tokens,
        template=check_template(template or LABEL_TEMPLATE), out=out, progress=not as_json, problems=problems,
    )  # fmt: skip
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        report.print_scores(result.to_json()["tasks"], title=f"{checkpoint} on {data}", remarks=result.remarks)


@command
def chat(
    checkpoint: Checkpoint,
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation.")] = None,
    audio: Annotated[
        list[str] | None, typer.Option(help="A recording to listen to; may be given several times.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    adapter: Adapter = None,
    lora_scale: LoraScale = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
) -> None:
    """Talk with a model about recordings."""
    from rich.console import Console

    from audiollm.chat import open_talk
    from audiollm.chat.terminal import ask_once, converse

    talk = open_talk(
        checkpoint, device=device, dtype=dtype, quantize=quantize, adapter=adapter, lora_scale=lora_scale,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    if question is None:
        converse(talk, audio, Console())
    else:
        ask_once(talk, question, audio, Console())


@command
def export(
    checkpoint: Checkpoint,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; not there yet, or empty.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Add LoRA to the weights, in place of an adapter beside them.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="A native architecture, such as audioflamingo3; merged.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a checkpoint as one folder that transformers loads without this package."""
    from audiollm.export.folder import export as write

    print(f"{write(checkpoint, to, merge=merge, format=format, dtype=dtype)}: written; README.md says how it is loaded")


@command
def push(
    folder: Annotated[str, typer.Argument(help="Folder of a run, a stage, an export, or rows of `audiollm prepare`.")],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="OWNER/NAME on the Hugging Face Hub; for rows also s3://BUCKET/FOLDER."),
    ],
    private: Annotated[bool, typer.Option("--private", help="Visible to the owner alone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card, list the files, and upload nothing.")
    ] = False,
) -> None:
    """Upload a checkpoint, an export or prepared rows to the Hub, with a card; rows to an object store too."""
    from audiollm.curation.publishing import is_prepared, publish
    from audiollm.data.hub import is_stored

    if is_prepared(folder) or is_stored(target):
        print(publish(folder, target, private=private, dry_run=dry_run).summary())
        return
    from audiollm.export.push import push as upload

    print(upload(folder, target, private=private, dry_run=dry_run).summary())


@command
def recipes(
    json_: Annotated[bool, typer.Option("--json", help="All that each says of itself, as JSON.")] = False,
) -> None:
    """List the recipes that come with the package."""
    from audiollm.resources import about_recipe, packaged_files

    found = {name: about_recipe(path) for name, path in packaged_files("recipes").items()}
    if json_:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for name, said in found.items():
        print(f"{name:20} {said['about']}".rstrip())


@command
def schema() -> None:
    """Print the JSON schema of a recipe, from which editors complete and check it."""
    from audiollm.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))


@command
def version() -> None:
    """Print the version."""
    print(f"audiollm {__version__}")


def _in_words(error: Exception) -> str:
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] in EXTRAS:
        module = (error.name or "").split(".")[0]
        return f"{module} is not installed; pip install 'audiollm[{EXTRAS[module]}]' brings it"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _complain(sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    if "RANK" in os.environ:
        from audiollm.training.ranks import is_first_to_say

        if not is_first_to_say(sentence):
            return
    Console(stderr=True, soft_wrap=True).print(Text(sentence, style="red"))


def _flush() -> None:
    """Write what is left; where the reader of our output has left, leave without a word too."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
