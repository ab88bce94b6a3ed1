"""Imports go one way, so that each room can be read, and used, with those below it alone."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT, modules

ALLOWED = {
    "audio": set(),
    "files": set(),
    "conversation": {"audio", "files"},
    "models": {"audio", "conversation"},
    "data": {"audio", "conversation", "files"},
    "inference": {"models", "audio", "conversation"},
    "matching": {"inference", "models", "audio", "conversation"},
    "resources": {"models"},
    "recipe_files": {"resources", "models"},
    "recipe_trainer": {"models"},
    "recipe": {"resources", "recipe_files", "recipe_trainer", "models", "data", "conversation"},
    "training": {"recipe", "recipe_trainer", "models", "data", "curation", "audio", "conversation", "files"},
    "report": {"audio", "conversation", "files"},
    "curation": {"resources", "models", "data", "inference", "report", "audio", "conversation", "files"},
    "evaluation": {"inference", "matching", "data", "report", "audio", "conversation", "recipe", "files"},
    "chat": {"inference", "audio", "conversation"},
    "serving": {"chat", "inference", "audio", "conversation"},
    "export": {"models", "inference", "recipe", "data"},
    "data_prep": {"curation", "data", "conversation", "audio"},
    "__init__": {"chat", "inference"},
    "__main__": {"cli"},
}
"""Room -> the rooms that it may import; cli may import all of them, and nobody imports cli."""

MODELS_SETTINGS = {f"audiollm.models.{name}" for name in ("settings", "listening", "plugins", "connectors", "encoders")}


def room_of(path: Path) -> str:
    """audiollm/data/packing.py -> data; audiollm/audio.py -> audio; data_prep/x.py -> data_prep."""
    return path.parts[0] if path.parts[0] == "data_prep" else Path(path.parts[1]).stem


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "audiollm":
                yield from (f"audiollm.{alias.name}" for alias in node.names if alias.name != "__version__")
            else:
                yield node.module


def test_imports_go_one_way():
    for path, tree in modules("audiollm", "data_prep"):
        room = room_of(path)
        rooms = {name.split(".")[1] for name in imported(tree) if name.startswith("audiollm.")}
        if room != "cli":
            assert room in ALLOWED, f"{path}: a new room; say in the table whom it may import"
            assert rooms <= ALLOWED[room] | {room}, f"{path} imports {sorted(rooms - ALLOWED[room] - {room})}"


def test_nothing_is_imported_relatively():
    for path, tree in modules("audiollm"):
        relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, path


def test_recipes_and_curation_see_only_the_settings_of_the_models():
    for path, tree in modules("audiollm"):
        if room_of(path).startswith(("recipe", "curation")):
            models = {name for name in imported(tree) if name.startswith("audiollm.models")}
            assert models <= MODELS_SETTINGS, path
        if room_of(path) == "recipe":
            data = {name for name in imported(tree) if name.startswith("audiollm.data")}
            assert data <= {"audiollm.data.augment", "audiollm.data.licences"}, path


def test_training_sees_nothing_of_curation_but_what_compares_recordings():
    for path, tree in modules("audiollm"):
        if room_of(path) == "training":
            assert {name for name in imported(tree) if "curation" in name} <= {"audiollm.curation.overlap"}, path


def test_the_commands_import_lazily():
    tree = ast.parse((ROOT / "audiollm/cli.py").read_text())
    at_the_top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not [name for name in imported(at_the_top) if name.startswith("audiollm")]


def test_importing_the_package_does_not_import_torch():
    program = "import sys, audiollm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


ELSEWHERE = {"whisper": "openai-whisper"}
"""Distributions by the name of their module, where the two differ and an extra may not be installed."""


def test_what_is_imported_is_declared():
    declared = declared_distributions()
    sources = {"whisper": ["openai-whisper"], **importlib.metadata.packages_distributions()}  # an extra
    missing = {}
    for path, tree in modules("audiollm", "data_prep"):
        for name in (
            {name.split(".")[0] for name in imported(tree)} - {"audiollm", "data_prep"} - sys.stdlib_module_names
        ):
            if not {canonical(source) for source in sources.get(name, [ELSEWHERE.get(name, name)])} & declared:
                missing[name] = str(path)
    assert not missing, "pyproject.toml does not declare these"


def test_every_dependency_has_an_exact_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert declared_distributions() <= {canonical(line.split("==")[0]) for line in lines if "==" in line}


def declared_distributions() -> set[str]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    return {canonical(re.split(r"[<>=\[ ]", line)[0]) for line in wanted}


def canonical(name: str) -> str:
    """One spelling for a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()
