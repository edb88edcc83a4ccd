"""Read params.yaml into sections. A mistake is one line: the file, the dotted path, the value, what would work."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.tokens import (
    AliasToken,
    BlockEndToken,
    BlockMappingStartToken,
    BlockSequenceStartToken,
    FlowMappingEndToken,
    FlowMappingStartToken,
    FlowSequenceEndToken,
    FlowSequenceStartToken,
)

from fedpipe.config.mistakes import mistakes, one_line
from fedpipe.config.section import Section
from fedpipe.system import console
from fedpipe.system.errors import ParameterError, UserError
from fedpipe.system.lifetime import DVC, end_in_order, end_with_dvc

PARAMS = Path("params.yaml")
RESTORE = "the results that DVC removed before this stage come back with `fedpipe reset`"
LONGEST, DEEPEST = 1_000_000, 20  # characters of a file, blocks within blocks
FLOW_STARTS = FlowMappingStartToken, FlowSequenceStartToken
FLOW_ENDS = FlowMappingEndToken, FlowSequenceEndToken

S = TypeVar("S", bound=Section)


def read(section: type[S], *, at: str = "", only_its_fields: bool = False, path: str | Path = PARAMS) -> S:
    """Read a section from the file.

    Args:
        section: its class.
        at: the dotted path of the section in the file; "" for the whole file.
        only_its_fields: ignore keys of the file that are no fields of the section.
        path: the file.

    Raises:
        UserError: the file cannot be read, or a line for each mistake in it.
    """
    value = load(path)
    for key in at.split(".") if at else []:
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{path}: {at}: missing")
        value = value[key]
    if only_its_fields and isinstance(value, dict):
        value = {key: value[key] for key in section.model_fields if key in value}
    try:
        return parse(section, value)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in mistakes(error, section, at))) from None


def parse(section: type[S], value: Any) -> S:
    """Return the section of these values, which are as `load` returns them.

    Raises:
        ValidationError: they make no such section.
    """
    # Through JSON, so that strict types still accept a mapping for a nested section.
    return section.model_validate_json(json.dumps(value, default=str))


def _with_text_keys(value: Any) -> Any:
    """Return the value with all keys as text, which JSON demands and YAML does not."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    if not isinstance(value, Mapping):
        return {path: value}
    below = [flat(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    return {dotted: leaf for items in below for dotted, leaf in items.items()}


@contextmanager
def parameters_from(path: str | Path = PARAMS) -> Iterator[None]:
    """Put the file's name in front of every ParameterError raised inside: only who reads the file knows its name."""
    try:
        yield
    except ParameterError as error:
        raise UserError(f"{path}: {error}") from None


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage that reads params.yaml, and exit; see `fedpipe.system.console.run`.

    It ends when DVC does, and in order when it is told to.
    """
    end_in_order()
    end_with_dvc()

    def told() -> None:
        try:
            with parameters_from(PARAMS):
                main()
        except UserError as error:
            if os.environ.get(DVC) in (None, "check"):  # before which DVC has removed nothing
                raise
            raise UserError(f"{error}\n{RESTORE}") from None

    console.run(told)


def load(path: str | Path) -> Any:
    """Return the values in the file, its keys as text.

    Raises:
        UserError: it cannot be read, or is no YAML that parameters could need.
    """
    try:
        text = Path(path).read_bytes().decode()
        if len(text) > LONGEST:
            raise UserError(f"{path}: {len(text):,} characters long; parameters take less than {LONGEST:,}")
        if problem := _too_much(text):
            raise UserError(f"{path}: {problem}")
        return _with_text_keys(YAML(typ="safe", pure=True).load(text))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run from the folder that holds it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; make it a readable file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8, in which it must be written") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = one_line(getattr(error, "problem", None) or error)
        raise UserError(f"{path}: not valid YAML{where}: {problem}") from None
    except (ValueError, ArithmeticError, TypeError, LookupError) as error:  # of a value such as a date or a huge number
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None


def _too_much(text: str) -> str:
    """Say what a file of parameters has that it should not: a few characters of YAML may stand for gigabytes."""
    depth = 0
    for token in YAML(typ="safe", pure=True).scan(text):
        where = f"line {token.start_mark.line + 1}"
        if isinstance(token, AliasToken):
            return f"{where}: an alias, *{token.value}; write out what it stands for"
        opens = isinstance(token, (BlockMappingStartToken, BlockSequenceStartToken, *FLOW_STARTS))
        depth += opens - isinstance(token, (BlockEndToken, *FLOW_ENDS))
        if depth > DEEPEST:
            return f"{where}: blocks within blocks, more than {DEEPEST} deep"
    return ""
