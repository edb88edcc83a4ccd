"""Which files a module's code is in: its own, and those of the modules that it imports, directly or not.

Found by reading the code rather than by running it, so that nothing is imported that is not needed.
"""

import ast
import hashlib
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path


def code(modules: Collection[str], roots: Collection[Path], *, but_not: Collection[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of each file whose code some modules run, by its path below its root.

    Imports count wherever they stand, also within functions and for type checkers alone. A line ending is one, whatever
    the system writes.

    Args:
        modules: dotted names.
        roots: the folders in which modules are looked for; what lies elsewhere, such as libraries, is left out.
        but_not: modules that are left out, with what only they import.
    """
    return dict(_code(tuple(modules), tuple(roots), tuple(but_not)))


@cache
def _code(modules: tuple[str, ...], roots: tuple[Path, ...], but_not: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, Path] = {}
    ahead, looked_for = list(modules), set(but_not)
    while ahead:
        module = ahead.pop()
        if module in looked_for:
            continue
        looked_for.add(module)
        if file := _file(module, roots):
            found[module] = file
            ahead += _imported(file)
            ahead += [module.rpartition(".")[0]] if "." in module else []
    hashes = {_below(file, roots).as_posix(): _sha256(file) for file in found.values() if _has_code(file)}
    return dict(sorted(hashes.items()))


def _file(module: str, roots: Collection[Path]) -> Path | None:
    """Return the file of a module; None if it is no module of these roots, such as a name within one."""
    path = module.replace(".", "/")
    for root in roots:
        for file in (f"{root}/{path}/__init__.py", f"{root}/{path}.py"):
            if os.path.isfile(file):  # noqa: PTH113 - thousands are looked for, and pathlib takes ten times as long
                return Path(file)
    return None


def _below(file: Path, roots: Collection[Path]) -> Path:
    """Return the path by which people know a file: from the folder that its root is in or, of the first root, is."""
    first, *others = roots
    if file.is_relative_to(first):
        return file.relative_to(first)
    return next(file.relative_to(root.parent) for root in others if file.is_relative_to(root))


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), file)


@cache
def _imported(file: Path) -> tuple[str, ...]:
    """Return the names that a file imports, of which some may be names within modules."""
    names: list[str] = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _has_code(file: Path) -> bool:
    """Tell whether a file holds anything but a docstring."""
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in _tree(file).body)


@cache
def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_text(encoding="utf-8").encode()).hexdigest()
