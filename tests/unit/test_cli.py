"""The commands are thin, quick to start, and tell a mistake in one sentence."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audiollm import __version__, cli
from audiollm.conversation import write_rows
from audiollm.training.signals import Stopped


def run(*arguments: str):
    """A command in this process, its output and exit code."""
    return CliRunner().invoke(cli.app, list(arguments))


def children_seconds() -> float:
    """Processor time of the finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_starts_within_half_a_second():
    program = "import sys; sys.argv = ['audiollm', '--help']; from audiollm.cli import main; main()"
    taken = []
    for _ in range(3):  # the quickest of three: the machine may have other work
        before = children_seconds()
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        taken.append(children_seconds() - before)
    assert "evaluate" in shown and min(taken) < 0.5


def test_the_commands_import_nothing_heavy_before_they_run():
    program = "import sys, audiollm.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_no_command_writes_over_what_it_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = '{"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a dog"}]}\n'
    for name in ("train.jsonl", "eval.jsonl"):
        Path(name).write_text(row)
    for words in (
        ["inspect", "train.jsonl", "--out", "train.jsonl"], ["overlap", "train.jsonl", "--out", "train.jsonl"],
        ["overlap", "train.jsonl", "--with", "eval.jsonl", "--out", "./eval.jsonl"],
        ["convert", "train.jsonl", "--to", "rows", "--out", "train.jsonl"],
    ):  # fmt: skip
        refused = run(*words)
        assert refused.exit_code == 2 and "would be written anew; say another place with --out" in refused.stderr
        assert Path("train.jsonl").read_text() == Path("eval.jsonl").read_text() == row


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "no_such_recipe"], "there is no 'no_such_recipe' among the packaged recipes"),
        (["train", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
        (["train", "bad.yaml"], "bad.yaml:2: modle is not a setting; did you mean 'model'?"),
        (["train", "bad.yaml", "--deepspeed", "zero9"], "bad.yaml:2"),
        (["train", "quickstart", "--deepspeed", "zero22"], "did you mean 'zero2'?"),
        (["train", "quickstart", "--deepspeed", "zero2"], "--deepspeed needs a launcher: torchrun --nproc-per-node 8"),
        (["train", "quickstart", "--dry-run", "--fsdp", "--deepspeed", "zero2"], "--fsdp goes without --deepspeed"),
        (["train", "quickstart", "--dry-run", "--deepspeed", "zero22"], "did you mean 'zero2'?"),
        (
            ["train", "quickstart", "stages.align.trainer.fsdp=full_shard"],
            "on the command line: `audiollm train RECIPE",
        ),
        (["train", "quickstart", "--fsdp"], "--fsdp shards over several ranks: torchrun --nproc-per-node 8"),
        (["evaluate", "nowhere", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["chat", "nowhere", "What do you hear?"], "nowhere"),
        (["prepare", "no_such_converter", "--out", "x"], "no_such_converter"),
        (["prepare", "esc50", "--out", "bad.yaml"], "bad.yaml is a file, and a folder is asked for; give another name"),
        (["check", "x", "--out", "bad.yaml"], "bad.yaml is a file, and a folder is asked for; give another name"),
        (["overlap", "x", "--index", "bad.yaml"], "bad.yaml is a file, and a folder is asked for; give another name"),
        (["check", "x", "--out", "bad.yaml/out"], "bad.yaml is a file, and bad.yaml/out would lie in it"),
        (["overlap", "x", "--out", "bad.yaml/x.jsonl"], "bad.yaml is a file, and bad.yaml/x.jsonl would lie in it"),
        (["inspect", "x", "--out", "bad.yaml/x.html"], "bad.yaml is a file, and bad.yaml/x.html would lie in it"),
        (["join", "x", "--recordings", ".", "--out", "bad.yaml"], "bad.yaml is a file, and a folder is asked for"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("name: bad\nmodle: {}\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr and "Traceback" not in result.stderr and "Usage" not in result.stderr


def test_a_traceback_is_shown_to_those_who_ask(monkeypatch):
    monkeypatch.setenv("AUDIOLLM_TRACEBACK", "1")
    assert isinstance(run("train", "nowhere.yaml").exception, ValueError)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Stopped."),
        (Stopped("after step 3", signal.SIGINT), 130, "Stopped after step 3."),
        (Stopped("after step 3", signal.SIGTERM), 143, "Stopped after step 3."),
        (BrokenPipeError(), 141, ""),
        (ValueError("the cause"), 2, "the cause"),
        (FileNotFoundError(2, "No such file or directory", "x.wav"), 2, "x.wav: No such file or directory"),
        (ModuleNotFoundError("No module", name="deepspeed"), 2, "pip install 'audiollm[deepspeed]'"),
    ],
)
def test_each_way_to_end_has_its_code_and_its_words(error, code, words, capsys):
    def fail() -> None:
        raise error

    with pytest.raises(cli.typer.Exit) as ended:
        cli.in_one_sentence(fail)()
    said = capsys.readouterr().err
    assert ended.value.exit_code == code
    assert words in said if words else not said


def test_a_programming_error_is_not_hidden():
    def fail() -> None:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError):
        cli.in_one_sentence(fail)()


def test_output_that_nobody_reads_is_no_error():
    program = "import sys; sys.argv = ['audiollm', 'version']; from audiollm.cli import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


def test_train_hands_the_recipe_over(monkeypatch, tmp_path):
    import audiollm.recipe
    import audiollm.training

    seen = []
    monkeypatch.setattr(audiollm.recipe, "load_recipe", lambda name, overrides: (name, overrides))
    monkeypatch.setattr(audiollm.training, "dry_run", lambda recipe, **how: seen.append((recipe, how)))
    assert run("train", "tiny", "seed=1", "stages.align.trainer.max_steps=2", "--dry-run").exit_code == 0
    for shared in (["--fsdp"], ["--deepspeed", "zero2"]):  # which no launcher need start
        assert run("train", "tiny", "--dry-run", *shared).exit_code == 0
    told = [("tiny", ["seed=1", "stages.align.trainer.max_steps=2"]), ("tiny", []), ("tiny", [])]
    [(_, alone), (_, by_fsdp), (_, by_deepspeed)] = seen
    assert [recipe for recipe, _ in seen] == told and alone == {"deepspeed": None, "fsdp": False}
    assert by_fsdp == {"deepspeed": None, "fsdp": True} and by_deepspeed["deepspeed"].endswith("zero2.json")


def test_train_prepares_trains_and_judges(monkeypatch, tmp_path):
    import audiollm.curation.prepare
    import audiollm.evaluation.judge
    import audiollm.recipe
    import audiollm.training

    done = []
    recipe = audiollm.recipe.Recipe.model_construct(
        name="tiny", prepare={"demo": {"clips": 9}}, data="d", stages={"align": None}
    )
    monkeypatch.setattr(audiollm.recipe, "load_recipe", lambda name, overrides: recipe)
    monkeypatch.setattr(audiollm.recipe, "require_files", lambda recipe: done.append("files"))
    monkeypatch.setattr(audiollm.curation.prepare, "prepare_all", lambda steps: done.append(steps) or 4.0)
    monkeypatch.setattr(audiollm.training, "run_recipe", lambda recipe, stage, **options: done.append(("train", stage)))
    monkeypatch.setattr(
        audiollm.evaluation.judge, "judge", lambda recipe, prepare_seconds: done.append(prepare_seconds)
    )
    assert run("train", "tiny").exit_code == 0
    assert done == ["files", {"demo": ("d/demo", {"clips": 9})}, ("train", None), 4.0]
    assert run("train", "tiny", "--stage", "align").exit_code == 0
    assert done[-1] == ("train", "align")  # one stage is not a finished run: nothing to judge
    done.clear()
    assert run("train", "tiny", "--stage", "algn").exit_code == 2
    assert done == ["files"]  # a stage that is not there is said before rows are made


def test_prepare_makes_rows_where_it_is_told(monkeypatch):
    import audiollm.curation.prepare

    made = []
    monkeypatch.setattr(audiollm.curation.prepare, "prepare", lambda *words, **options: made.append((*words, options)))
    assert run("prepare", "demo", "clips=5", "--out", "x").exit_code == 0
    assert run("prepare", "demo", "--overwrite").exit_code == 0
    assert made == [
        ("demo", Path("x"), {"clips": 5}, {"overwrite": False}),
        ("demo", Path("data/demo"), {}, {"overwrite": True}),
    ]
    assert "demo" in run("prepare", "--list").stdout


def test_evaluate_hands_its_options_over(monkeypatch, tmp_path):
    import audiollm.evaluation.judge
    import audiollm.matching
    from audiollm.conversation import parse_row

    row = parse_row(
        {"messages": [{"role": "user", "content": "Is it a bell?"}, {"role": "assistant", "content": "Yes."}]},
        origin="test",
    )
    write_rows(tmp_path / "rows.jsonl", [row, row, row])
    seen: dict = {}

    def answer(listener, rows, **options):
        seen.update(options, listener=listener, rows=len(rows))
        return audiollm.evaluation.EvaluationResult({})

    monkeypatch.setattr(audiollm.matching, "load_either", lambda checkpoint, **options: (checkpoint, options))
    monkeypatch.setattr(audiollm.evaluation.judge, "score", answer)
    options = [
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--quantize",
        "nf4",
        "--adapter",
        "runs/other",
        "--lora-scale",
        "0.5",
        "--batch-size",
        "3",
        "--limit",
        "2",
        "--json",
        "--blind",
    ]
    result = run("evaluate", "runs/tiny", "--data", str(tmp_path / "rows.jsonl"), *options)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"tasks": {}}
    loaded = {"device": "cpu", "dtype": "float32", "quantize": "nf4", "adapter": "runs/other", "lora_scale": 0.5}
    assert seen["listener"] == ("runs/tiny", loaded)
    assert seen["rows"] == 2 and seen["batch_size"] == 3 and seen["blind"] is True


@pytest.mark.parametrize("question", [None, "What do you hear?"])
def test_chat_answers_one_question_or_converses(question, monkeypatch):
    import audiollm.chat
    import audiollm.chat.terminal

    seen = []
    monkeypatch.setattr(
        audiollm.chat, "open_talk", lambda checkpoint, **options: (checkpoint, options["max_new_tokens"])
    )
    monkeypatch.setattr(
        audiollm.chat.terminal, "ask_once", lambda talk, said, audio, console: seen.append((said, audio))
    )
    monkeypatch.setattr(audiollm.chat.terminal, "converse", lambda talk, audio, console: seen.append((None, audio)))
    arguments = [question] if question else []
    assert run("chat", "runs/tiny", *arguments, "--audio", "a.wav", "--audio", "b.wav").exit_code == 0
    assert seen == [(question, ["a.wav", "b.wav"])]


def test_recipes_schema_and_version_are_printed():
    assert run("version").stdout == f"audiollm {__version__}\n"
    assert json.loads(run("schema").stdout)["title"] == "Recipe"
    assert run("recipes").exit_code == 0
