"""The code that travels with an exported folder: this package's own modules, made flat, and no copy kept by hand.

    audiollm/models/modeling.py            models_modeling.py          from audiollm.models.splice import splice
    audiollm/models/encoders/__init__.py   models_encoders.py          becomes   from .models_splice import splice
    audiollm/audio.py                      audio.py

transformers copies the file that `auto_map` names and its siblings, and resolves relative imports of siblings alone.
From the two modules below, what they import at their top is followed. What stays at home: functions that import from
this package themselves (they build and load checkpoints), and the registration with the Auto classes, which `auto_map`
does in a folder.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from audiollm import __version__

PACKAGE = "audiollm"
LONGEST_LINE = 120


class Entry(NamedTuple):
    """A file that `auto_map` names: the module that it stands for, and the classes that the Auto classes find in it."""

    file: str
    module: str
    classes: dict[str, str]  # Auto class -> class


MODEL = Entry(
    "modeling_audiollm",
    "audiollm.models.modeling",
    {
        "AutoConfig": "AudioLLMConfig",
        "AutoModel": "AudioLLMModel",
        "AutoModelForMultimodalLM": "AudioLLMForConditionalGeneration",
    },
)
PROCESSOR = Entry(
    "processing_audiollm",
    "audiollm.models.processing",
    {"AutoProcessor": "AudioLLMProcessor", "AutoFeatureExtractor": "AudioLLMFeatureExtractor"},
)
ENTRIES = (MODEL, PROCESSOR)


class Travelling(NamedTuple):
    """A module as it travels."""

    text: str
    ours: tuple[str, ...]  # modules of this package that it imports
    others: frozenset[str]  # top-level names of other people's packages that it imports


def auto_map(entry: Entry, *autos: str) -> dict[str, str]:
    """What `auto_map` says of an entry's classes, of all or of some."""
    return {auto: f"{entry.file}.{name}" for auto, name in entry.classes.items() if not autos or auto in autos}


def travelling_code(also: Mapping[str, frozenset[str]] | None = None) -> dict[str, str]:
    """Every file of code of an exported folder, by its name.

    `also`: modules of others that an entry needs beyond what its own import, by the entry's file.
    """
    modules: dict[str, Travelling] = {}
    files = {}
    for entry in ENTRIES:
        reached = reach(entry.module, modules)
        needs = {name for module in reached for name in modules[module].others}
        files[f"{entry.file}.py"] = entry_file(entry, needs | (also or {}).get(entry.file, frozenset()))
    for module, travelling in modules.items():
        name = f"{flat(module)}.py"
        assert name not in files, f"two modules travel as {name}"
        files[name] = travelling.text
    return files


def requirements(code: Mapping[str, str]) -> list[str]:
    """The packages that the files of a folder import, by name."""
    entries = [ast.parse(code[f"{entry.file}.py"]) for entry in ENTRIES]
    imports = [node for tree in entries for node in tree.body if isinstance(node, ast.Import)]
    return sorted({alias.name.split(".")[0] for node in imports for alias in node.names})


def reach(start: str, modules: dict[str, Travelling]) -> list[str]:
    """The modules that one needs, itself first; those that are met for the first time are read."""
    reached = [start]
    for module in reached:
        if module not in modules:
            modules[module] = travelling(module)
        reached += [other for other in modules[module].ours if other not in reached]
    return reached


def entry_file(entry: Entry, needs: set[str]) -> str:
    """The file that `auto_map` names. It imports what its siblings need, so that transformers says what is missing."""
    homes: dict[str, list[str]] = {}
    for name in entry.classes.values():
        home = "audiollm.models.configuration" if name == "AudioLLMConfig" else entry.module
        homes.setdefault(home, []).append(name)
    lines = [
        f'"""What transformers loads of this folder. Made by audiollm {__version__}; the code lies beside it."""',
        "",
    ]
    lines += [f"import {name}" for name in sorted(needs)] + [""]
    lines += [import_line(f".{flat(home)}", sorted(names)) for home, names in sorted(homes.items())]
    return "\n".join([*lines, "", f"__all__ = {sorted(entry.classes.values())!r}", ""])


def flat(module: str) -> str:
    """The name of a module's file in the folder, without its suffix."""
    return module.removeprefix(f"{PACKAGE}.").replace(".", "_")


@lru_cache
def travelling(module: str) -> Travelling:
    """A module of this package as it travels."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source)
    at_home = list(staying(tree, is_entry=any(entry.module == module for entry in ENTRIES)))
    used = names_used(tree, at_home)
    edits = {lines_of(node): "" for node in at_home}
    ours: list[str] = []
    others: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kept = [alias for alias in node.names if bound(alias) in used]
            edits[lines_of(node)] = rewritten(node, kept, ours)
            if kept:
                others |= {name.split(".")[0] for name in modules_of(node, kept)} - {PACKAGE}
    header = f"# Made by audiollm {__version__} from its {module}; change it there.\n"
    text = header + tidy(edited(source, edits))
    assert not re.search(rf"^\s*(from|import) {PACKAGE}\b", text, re.MULTILINE), module
    return Travelling(text, tuple(ours), frozenset(others - sys.stdlib_module_names))


def staying(tree: ast.Module, *, is_entry: bool) -> Iterator[ast.stmt]:
    """What does not travel: functions that import from this package, and an entry's calls of `Auto....register`."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and id(node) not in inside:
            within = list(ast.walk(node))
            if any(imports_ours(inner) for inner in within):
                inside |= {id(inner) for inner in within}
                yield node
    for statement in tree.body:
        if is_entry and isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("Auto"):
            yield statement


def imports_ours(node: ast.AST) -> bool:
    """Whether a node imports from this package."""
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE


def names_used(tree: ast.Module, without: list[ast.stmt]) -> set[str]:
    """Every name that code uses, quoted annotations and `__all__` among it, but for what lies in some statements."""
    skipped = {id(inner) for node in without for inner in ast.walk(node)}
    nodes = [node for node in ast.walk(tree) if id(node) not in skipped]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return names | {word for text in texts if "\n" not in text and len(text) < 100 for word in re.findall(r"\w+", text)}


def bound(alias: ast.alias) -> str:
    """The name that an import binds."""
    return alias.asname or alias.name.split(".")[0]


def modules_of(node: ast.Import | ast.ImportFrom, kept: list[ast.alias]) -> list[str]:
    """The modules that an import reads."""
    return [alias.name for alias in kept] if isinstance(node, ast.Import) else [node.module or ""]


def rewritten(node: ast.Import | ast.ImportFrom, kept: list[ast.alias], ours: list[str]) -> str:
    """An import in the form of the folder, of the names that are kept; modules of this package are added to `ours`."""
    if not kept:
        return ""
    if not imports_ours(node):
        return ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), "names": kept}))
    assert isinstance(node, ast.ImportFrom) and node.module is not None
    lines, names = [], []
    for alias in kept:
        whole = f"{node.module}.{alias.name}"
        if find_module(whole):
            ours.append(whole)
            lines.append(import_line(".", [f"{flat(whole)} as {bound(alias)}"]))
        else:
            names.append(ast.unparse(alias))
    if names:
        assert node.module != PACKAGE, f"{names} of the package itself would have to travel"
        ours.append(node.module)
        lines.append(import_line(f".{flat(node.module)}", names))
    return "\n".join(lines)


def find_module(name: str) -> bool:
    """Whether a dotted name is a module of this package, and not something in one."""
    parent, _, _ = name.rpartition(".")
    spec = find_spec(parent)
    return spec is not None and spec.submodule_search_locations is not None and find_spec(name) is not None


def import_line(source: str, names: list[str]) -> str:
    """`from source import names`, in brackets where it is long."""
    line = f"from {source} import {', '.join(names)}"
    if len(line) <= LONGEST_LINE:
        return line
    wrapped = textwrap.wrap(", ".join(names) + ",", LONGEST_LINE - 4)
    return "\n".join([f"from {source} import (", *(f"    {part}" for part in wrapped), ")"])


def lines_of(node: ast.stmt) -> tuple[int, int]:
    """The first and the last line of a statement, its decorators included, counted from 0; the last is excluded."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    assert node.end_lineno is not None
    return first - 1, node.end_lineno


def edited(source: str, edits: Mapping[tuple[int, int], str]) -> str:
    """The source with ranges of lines replaced; where nothing is put, the lines are gone."""
    lines = source.splitlines()
    for (first, last), text in sorted(edits.items(), reverse=True):
        lines[first:last] = text.splitlines()
    return "\n".join(lines)


def tidy(text: str) -> str:
    """No more than two empty lines together, and one line end at the end."""
    return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"
