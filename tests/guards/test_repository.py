"""What is written for people holds: no places of one machine, documented functions, commands that exist."""

import ast
import re
import shlex
from collections.abc import Iterator

import typer
from repository import ROOT, SHIPPED, blocks, commands, modules, text_files

from audiollm import cli
from audiollm.recipe import load_recipe
from audiollm.resources import packaged_files

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
REGISTRIES = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "download.pytorch" + ".org",
    "npmjs" + ".org",
    "anaconda" + ".org",
]


def test_no_place_of_one_machine_is_written_down():
    for path, text in text_files():
        found = re.search(r"""(?<![\w.$}])/(?:home|Users|root|work)/""", text)
        assert not found, f"{path}: {found}"
    for path, text in text_files(*SHIPPED):
        assert not re.search(r"(?<![\w.])/(?:tmp|mnt|opt)\b", text), path


def test_no_address_of_a_package_registry_is_written_down():
    for path, text in text_files():
        assert not [address for address in REGISTRIES if address in text], path


def test_every_public_function_class_and_module_says_what_it_is():
    silent = []
    for path, tree in modules("audiollm", "data_prep"):
        silent += [str(path)] if len(ast.get_docstring(tree) or "") <= 10 else []
        silent += [f"{path}: {name}" for name, node in public(tree) if not ast.get_docstring(node)]
    assert not silent


def test_every_command_in_the_documents_exists():
    for path, text in text_files():
        if path.suffix == ".md":
            for line in commands(text):
                for words in (line_words(part) for part in re.split(r"&&|\||;", line)):
                    check_audiollm(words, f"{path}: {line}")
                    check_make(words, f"{path}: {line}")


def test_every_python_example_in_the_documents_parses():
    documents = [(path, text) for path, text in text_files() if path.suffix == ".md"]
    examples = [(path, block) for path, text in documents for block in blocks(text, ("python", "py"))]
    assert examples and all(ast.parse(block, filename=str(path)).body for path, block in examples)


def check_audiollm(words: list[str], where: str) -> None:
    """An `audiollm` command with its options, started by itself or by a launcher."""
    if "audiollm" not in words or words[0] in ("pip", "cd", "import", "ls"):
        return
    name, *arguments = words[words.index("audiollm") + 1 :] or ["--help"]
    if name == "--help":
        return
    assert name in COMMANDS, f"{where}: there is no command {name}"
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert used <= known, f"{where}: {name} has no {sorted(used - known)}"
    if name == "train" and arguments and arguments[0] in packaged_files("recipes"):
        load_recipe(arguments[0], [word for word in arguments[1:] if re.match(r"[a-z_]+[\w.]*=", word)])
    elif name == "train" and arguments and re.fullmatch(r"[a-z_]+", arguments[0]):
        raise AssertionError(f"{where}: there is no recipe {arguments[0]}")


def check_make(words: list[str], where: str) -> None:
    """A `make` command: its targets."""
    if words[:1] == ["make"]:
        targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        assert set(targets) <= TARGETS, f"{where}: the Makefile has {sorted(TARGETS)}"


def line_words(line: str) -> list[str]:
    """The words of a shell line, comments left out."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def public(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Functions and classes that others may use, and the methods of these classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")
