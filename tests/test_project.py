"""The package as a whole: what it declares is what it imports, and imports point one way."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
IMPORTED_AS = {"clean-fid": "cleanfid", "pyyaml": "yaml", "scikit-learn": "sklearn", "ray[data,train]": "ray", "pillow": "PIL"}


def imported() -> set[str]:
    """Top-level names of everything that the package imports, the standard library and itself aside."""
    found: set[str] = set()
    for file in (ROOT / "disback_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"disback_ray"}


def test_the_dependencies_declared_are_those_imported() -> None:
    """What an extra brings is imported where it is needed, and may be there without being needed by name."""
    extras = {name: extra for name, extra in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}
    declared = names(PROJECT["project"]["dependencies"])
    assert declared <= imported()
    assert imported() <= declared.union(*map(names, extras.values()))


def names(requirements: list[str]) -> set[str]:
    """What they are imported as."""
    declared = {re.split(r"[<>=~! ]", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in declared}


def test_the_constraints_cover_what_is_declared() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text("utf-8").split()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in wanted}
    assert names - {PROJECT["project"]["name"]} <= pinned  # an extra may name another one of ours


def test_imports_point_one_way() -> None:
    """The contracts in pyproject.toml, among them that the paper's algorithms know no Ray."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_shipped_files_travel_with_the_package() -> None:
    from disback_ray.config import load_cluster, load_recipe, shipped

    assert {load_recipe(name).name for name in shipped("recipes")} == set(shipped("recipes"))
    for name in shipped("clusters"):
        load_cluster(name)
    assert {"digits", "ring8", "grid25"} <= set(shipped("recipes"))
