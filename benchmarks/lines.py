"""Count the lines that somebody has to write: `python -m benchmarks.lines FILE...`, of Python, notebooks and settings.

A line counts if something stands on it besides a comment or a docstring. Of a notebook, the cells of code count.
"""

import ast
import json
import sys
import tokenize
from io import StringIO
from pathlib import Path

BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count(path: Path) -> int:
    """Return how many lines of a file count; those of YAML and TOML do if they are neither blank nor comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return count_python(text)
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return sum(count_python("".join(cell["source"])) for cell in cells)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())


def count_python(text: str) -> int:
    """Return how many lines of Python count."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type not in BLANK:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]]
    for file in files:
        print(f"{count(file):6} {file}")
    print(f"{sum(map(count, files)):6} in all")
