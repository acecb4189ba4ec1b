"""How the modules lie: nothing imports in a circle, and a few doors stay the only ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("annotation", "bench", "formats", "inputs", "lab", "new_cells", "outcome", "perf"),
    "report",
)


def imported_by(path):
    """Names of the project's modules and folders that a file imports, lazily and for types too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module.split(".")[0] in FOLDERS and "." not in node.module
            names |= {f"{node.module}.{a.name}" for a in node.names} if inside else {node.module}
    return {name for name in names if name in MODULES}


PATHS = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PATHS}
IMPORTS = {name: imported_by(path) for name, path in MODULES.items()}


def reached_from(name):
    """Every module that a module imports, and those that these import, and so on."""
    reached, waiting = set(), {name}
    while waiting:
        more = IMPORTS[waiting.pop()] - reached
        reached |= more
        waiting |= more
    return reached


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_itself_in_the_end(name):
    assert name not in reached_from(name)


def test_the_doors():
    """Only the pipeline scores, few open the benchmark's inside, and no command is imported.

    The laboratory reads methods as the benchmark writes them. What measures whole runs watches and
    draws them as the benchmark does its jobs. The benchmark reads the rivals'
    table, and the laboratory judges by these rivals and caches what scanpy's steps make.
    """
    importers = {name: {other for other in IMPORTS if name in IMPORTS[other]} for name in MODULES}
    assert importers["scores"] == {"pipeline"}
    outside = {other for name in MODULES if name.startswith("bench.") for other in importers[name]}
    assert {name for name in outside if not name.startswith("bench.")} == {
        "benchmark",
        "datasets",
        "lab.prepare",
        "perf.growth",
        "perf.scale",
    }
    for command in ("train", "predict", "benchmark", "datasets", "sctag"):
        assert importers[command] == set()
    assert importers["baselines"] == {"bench.methods", "lab.ways", "perf.scvi_part"}


def test_what_reads_and_prepares_data_does_not_know_tensorflow():
    names = {"command", "readers", "preprocess", "clustering", "estimation", "scores"}
    names |= {name for name in MODULES if name.startswith(("annotation.", "inputs.", "report."))}
    for name in (*names, "outcome.overview"):
        assert not {"tensors", "model", "layers", "training"} & reached_from(name), name
