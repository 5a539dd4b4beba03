"""What the README says is there is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from disback_ray.cli import app
from disback_ray.config import ClusterConfig, load_cluster, parse, shipped

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ROWS = re.findall(r"^\| .+ \| `(disback_ray/[\w/]+\.py):([\w.]+)` \|$", README, flags=re.M)
COMMANDS = re.findall(r"^\$ (disback-ray .+?)(?:\s+#.*)?$", README, flags=re.M)


def names(tree: ast.AST, prefix: str = "") -> set[str]:
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found |= {prefix + node.name} | names(node, f"{prefix}{node.name}.")
    return found


def test_the_paper_s_items_are_in_the_table() -> None:
    assert len(ROWS) >= 10
    for item in ("Algorithm 1", "Algorithm 2", "Eq. (5)", "Eq. (6), (8)", "App. D.1", "Figure 8", "Figure 9"):
        assert f"| {item}" in README or f", {item} |" in README, item


@pytest.mark.parametrize(("file", "name"), ROWS)
def test_each_row_names_what_exists(file: str, name: str) -> None:
    assert name in names(ast.parse((ROOT / file).read_text("utf-8")))


def test_the_tree_of_files_exists() -> None:
    tree = README.split("## The files")[1].split("```")[1]
    entries = re.findall(r"^  (\S+)", tree, flags=re.M)
    assert len(entries) >= 10
    for entry in entries:
        assert (ROOT / "disback_ray" / entry).exists(), entry
    named = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert named, "no picture"
    for path in named:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_understood(command: str) -> None:
    _, verb, *rest = shlex.split(command)
    help_text = CliRunner().invoke(app, [verb, "--help"])
    assert help_text.exit_code == 0, help_text.output
    for option in (word for word in rest if word.startswith("--")):
        assert option in help_text.output, option
    if verb == "run" and rest and not rest[0].startswith("--") and not rest[0].endswith(".yaml"):
        assert rest[0] in shipped("recipes")
    if "--cluster" in rest and not (name := rest[rest.index("--cluster") + 1]).endswith(".yaml"):
        load_cluster(name)


def test_its_cluster_file_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.+?)```", README, flags=re.S)
    cluster = parse(block, model=ClusterConfig, where="README.md")
    assert (cluster.recipe, cluster.address, cluster.roles.path_node.share) == ("digits", "auto", "teacher")


def test_every_recipe_it_names_is_shipped_and_no_figure_lacks_its_command() -> None:
    measured = README.split("## Measured")[1].split("\n## ")[0]
    for paragraph in measured.strip().split("\n\n"):
        if re.search(r"\d+\.\d+", paragraph) and not paragraph.startswith("|"):
            assert "`" in paragraph, paragraph
    assert "make run" in measured
