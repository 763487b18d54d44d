"""Which functions of sparserl are called from the command to the first gradient: their lines of code by file, as JSON.

``python calls_to_gradient.py OVERRIDE ...`` starts ``python -m sparserl.train`` with these overrides and stops it there. A line
counts where it has code, so not where it is empty, a comment or a docstring. Calls while modules are imported are left out.
"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tokenize
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import torch

from sparserl import train

PACKAGE = Path(train.__file__).parent

NO_CODE = tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER


def lines_of_code(path: Path, functions: set[tuple[str, int]]) -> int:
    """How many lines of a file are code of these functions, each given by its name and the line where it begins."""
    source = path.read_text()
    docstrings: set[int] = set()
    called: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        lines = range(getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) + 1)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= {*lines}
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if (node.name, first) in functions:
                called |= {*range(first, lines.stop)}
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in NO_CODE)
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(called & code - docstrings)


def main() -> None:
    """Run the command until autograd is asked for a gradient."""
    called: set[CodeType] = set()
    importing = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal importing
        code = frame.f_code
        if code.co_name == "<module>" and event in ("call", "return"):
            importing += 1 if event == "call" else -1
        elif event == "call" and not importing and code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            called.add(code)

    def report(*_: Any, **__: Any) -> NoReturn:
        sys.setprofile(None)
        files = {code.co_filename for code in called}
        found = {
            str(Path(file).relative_to(PACKAGE)): lines_of_code(
                Path(file), {(code.co_name, code.co_firstlineno) for code in called if code.co_filename == file}
            )
            for file in files
        }
        print(json.dumps(dict(sorted(found.items(), key=lambda item: -item[1]))), flush=True)
        os._exit(0)

    torch.autograd.grad = torch.autograd.backward = report  # type: ignore[assignment]
    sys.setprofile(note)
    train.main()


if __name__ == "__main__":
    main()
