"""How `pip install .` makes a package of the flat modules: `sctag`, and nothing beside it.

In a clone the modules import each other by name (`import utils`), and so they can be read and run
as they lie. Installed like that, `utils` or `model` would stand at the top of site-packages and
shadow other people's. So the build copies them into the package `sctag`, `sctag.py` as its
`__init__.py`, and writes their imports of each other relative to it (`from . import utils`).
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent
DOOR = "sctag"  # the module that becomes the package itself
# What is of the clone alone: the benchmark and the fetching of its data sets.
LEFT_OUT = ("benchmark", "datasets")
SUBPACKAGES = ("annotation", "formats", "inputs", "new_cells", "outcome", "report")
COPIED = ("*.html", "*.js")  # what a subpackage needs beside its modules


def sources() -> dict[Path, Path]:
    """Return where in the package, as a relative path, each file of the clone goes."""
    modules = [path for path in ROOT.glob("*.py") if path.stem not in LEFT_OUT]
    targets = {path: Path("__init__.py" if path.stem == DOOR else path.name) for path in modules}
    for name in SUBPACKAGES:
        for pattern in ("*.py", *COPIED):
            targets |= {path: Path(name, path.name) for path in (ROOT / name).glob(pattern)}
    return targets


def relative(text: str, siblings: set[str], depth: int) -> str:
    """Return a module's text with its imports of the siblings relative to the package.

    The depth is 0 for a module of the package itself, 1 for one of a subpackage.
    """
    dots = "." * (depth + 1)
    names = "|".join(sorted(siblings))
    text = re.sub(rf"^(\s*)import ({names})$", rf"\1from {dots} import \2", text, flags=re.M)
    return re.sub(rf"^(\s*)from ({names})\b", rf"\1from {dots}\2", text, flags=re.M)


class BuildPackage(build_py):
    """The step of setuptools that collects Python files, with ours written as one package."""

    def run(self) -> None:
        """Write the package into the folder of the build."""
        targets = sources()
        siblings = {path.stem for path in ROOT.glob("*.py")} | {*SUBPACKAGES}
        for source, target in targets.items():
            path = Path(self.build_lib, DOOR, target)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            if source.suffix == ".py":
                text = relative(text, siblings, len(target.parts) - 1)
            path.write_text(text, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that `run` writes."""
        return [str(Path(self.build_lib, DOOR, target)) for target in sources().values()]

    def get_source_files(self) -> list[str]:
        """Return the files that `run` reads, for a source distribution."""
        return [str(path.relative_to(ROOT)) for path in sources()]
