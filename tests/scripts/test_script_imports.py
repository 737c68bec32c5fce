"""Scripts import one another down from the commands, never in a circle."""

import ast
import graphlib
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
FILES = {
    ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SCRIPTS.rglob("*.py")
}


def imported_by(path):
    """Return the scripts that a script imports, at module level or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(FILES)


def folder(name):
    return name.partition(".")[0]


@pytest.mark.parametrize("unit", [str, folder], ids=["files", "folders"])
def test_no_script_is_imported_in_a_circle(unit):
    graph = {}
    for name, path in FILES.items():
        graph.setdefault(unit(name), set()).update({unit(each) for each in imported_by(path)} - {unit(name)})
    assert {"bench", "benchmarks", "examples", "train", "training"} <= set(graph)
    assert "training" in graph["train"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
