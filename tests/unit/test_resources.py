"""Packaged files are found by name, in a wheel and in a checkout alike."""

import sys

import pytest

from audiollm import resources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with its own recipes and converters, as a wheel lays them out."""
    files = {
        "recipes/tiny/recipe.yaml": "name: tiny",
        "recipes/tiny/large.yaml": "name: tiny-large",
        "recipes/tiny/README.md": "",
        "data_prep/__init__.py": "",
        "data_prep/clap.py": "from data_prep import bells\nNAME = bells.NAME",
        "data_prep/bells/__init__.py": "NAME = 'bells'",
        "data_prep/bells/_private.py": "",
        "ds_configs/zero9.json": "{}",
    }
    for name, text in files.items():
        path = tmp_path / "audiollm" / "_packaged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "audiollm" / "resources.py"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "data_prep"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path / "audiollm" / "_packaged"
    for name in [name for name in sys.modules if name.split(".")[0] == "data_prep"]:
        del sys.modules[name]


def test_a_name_finds_its_file(package):
    assert resources.find_packaged("recipes", "tiny") == package / "recipes/tiny/recipe.yaml"
    assert resources.find_packaged("recipes", "tiny/large") == package / "recipes/tiny/large.yaml"
    assert resources.find_packaged("ds_configs", "zero9") == package / "ds_configs/zero9.json"
    assert sorted(resources.packaged_files("data_prep")) == ["bells", "clap"]


def test_deepspeed_settings_are_a_name_or_a_file(package, tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    assert resources.deepspeed_file("zero9") == package / "ds_configs/zero9.json"
    assert resources.deepspeed_file(str(tmp_path / "mine.json")) == tmp_path / "mine.json"


def test_a_file_says_what_it_is(tmp_path):
    (tmp_path / "a").write_text("# A tiny model.\nname: a")
    (tmp_path / "b").write_text("name: b")
    assert resources.opening_line(tmp_path / "a") == "A tiny model." and resources.opening_line(tmp_path / "b") == ""


def test_a_misspelt_name_is_told_the_nearest(package):
    with pytest.raises(FileNotFoundError, match="did you mean 'zero9'"):
        resources.find_packaged("ds_configs", "zero8")


def test_a_checkout_has_its_files_beside_the_package(package):
    package.rename(package.parent.parent / "moved")
    for folder in (package.parent.parent / "moved").iterdir():
        folder.rename(package.parent.parent / folder.name)
    assert resources.find_packaged("recipes", "tiny") == package.parent.parent / "recipes/tiny/recipe.yaml"


def test_an_installation_without_them_says_so(package):
    package.rename(package.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match="has no recipes/"):
        resources.find_packaged("recipes", "tiny")


def test_a_converter_is_imported_from_the_package_and_not_from_the_working_folder(package, tmp_path, monkeypatch):
    (tmp_path / "here" / "data_prep").mkdir(parents=True)
    (tmp_path / "here" / "data_prep" / "__init__.py").write_text("raise RuntimeError('a stranger')")
    monkeypatch.syspath_prepend(tmp_path / "here")
    module = resources.import_converter("clap")
    assert module.__name__ == "data_prep.clap" and module.NAME == "bells"
