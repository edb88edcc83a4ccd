"""A Section is a block of parameters as an object: its fields are the parameters, its methods do the work.

Knows pydantic; knows neither files nor federated learning.
"""

import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WrapValidator, create_model, model_validator
from pydantic_core import PydanticSerializationError

from fedpipe.config import own
from fedpipe.system.errors import UserError


class Section(BaseModel):
    """Hold a block of parameters: frozen, without unknown keys or silent conversions.

    Every field carries a description; params.yaml's comments are those descriptions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    choices: ClassVar[Mapping[str, Mapping[str, type["Section"]]]] = {}  # tables, by the fields that pick from them
    entries: ClassVar[frozenset[str]] = frozenset()  # fields that are blocks of entries of tables
    extensible: ClassVar[Mapping[str, tuple[type["Section"], Mapping[str, type["Section"]]]]] = {}  # see `own_names`

    def __str__(self) -> str:
        """Return the name of the class, by which people know an object that stands in the place of a name."""
        return type(self).__name__

    def in_use(self) -> dict[str, Any]:
        """Return the parameters that count, as JSON: without the blocks of entries that are not chosen.

        Raises:
            UserError: an object is of a class whose code cannot be read, so that it cannot be told from others.
        """
        try:
            values = self.model_dump(mode="json")
        except PydanticSerializationError as error:
            raise error.__cause__ or error from None
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section) and field.annotation is type(value):
                values[name] = value.in_use()
        return {name: value for name, value in values.items() if name not in self.entries - self.chosen_names()}

    def chosen_names(self) -> set[str]:
        """Return the names that the section's fields pick from tables."""
        return {name for key in self.choices if isinstance(name := getattr(self, key), str)}

    @model_validator(mode="before")
    @classmethod
    def _with_own(cls, values: Any) -> Any:
        """Put objects in the place of names such as ``my_module:MyStrategy``, with the parameters of their blocks."""
        if not isinstance(values, dict) or not cls.extensible:
            return values
        made: dict[str, Any] = {}
        for key, (kind, table) in cls.extensible.items():
            names = values.get(key)
            if not (isinstance(names, str) and own.MARK in names):
                continue
            parts = [
                table[name].model_validate(values.get(name, {}))
                if name in table
                else own.make(f"{key}: {name}", name, kind, values)
                for name in names.split("+")
            ]
            made[key] = parts if len(parts) > 1 else parts[0]
        # The blocks of classes that are not chosen now may stay: names of classes are capitalised, no others are.
        return {key: value for key, value in values.items() if not own.is_block(key, value)} | made

    def chosen(self, key: str, kind: type["S"]) -> "S":
        """Return the section that the value of `key` names, with the parameters of its own block.

        Args:
            key: a field that `choice` tied to a table.
            kind: the class that every entry of that table has in common.
        """
        value = getattr(self, key)
        return value if isinstance(value, kind) else self.entry(value, self.choices[key], kind)

    def entry(self, name: str, table: Mapping[str, type["Section"]], kind: type["S"]) -> "S":
        """Return the section of this name in a table given to `with_blocks`, with the parameters of its block."""
        entry = getattr(self, name) if table[name].model_fields else table[name]()
        assert isinstance(entry, kind)
        return entry


S = TypeVar("S", bound=Section)

LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # of 32 bits, in which indices and training compute

PositiveInt = Annotated[int, Field(gt=0, le=LARGEST_INT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_INT)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST_FLOAT)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST_FLOAT)]

Seed = Annotated[
    int,
    Field(
        ge=0,
        le=2**63 - 1,
        description="Every random draw follows from it: the partition, the initial model, the cohorts, the order of "
        "examples.",
    ),
]

CheckpointEvery = Annotated[
    NonNegativeFloat,
    Field(
        description="Seconds from one checkpoint to the next, at least; 0 saves one after each round and epoch. An "
        "interrupted stage goes on from the last one."
    ),
]

OnDivergence = Annotated[
    Literal["stop", "continue"],
    Field(
        description="What happens when the loss on validation data or, where there are none, on the test set is no "
        "longer a number, or is a hundred times that of guessing: stop ends training there. The reports say either "
        "way that it diverged."
    ),
]


def with_blocks(*tables: Mapping[str, type[Section]]) -> Callable[[type[S]], type[S]]:
    """Give a section a block for every entry of the tables that has parameters, under the entry's name."""

    def extend(section: type[S]) -> type[S]:
        blocks: dict[str, Any] = {
            name: (kind, Field(default=kind(), description=summary(kind)))
            for table in tables
            for name, kind in table.items()
            if kind.model_fields
        }
        extended = create_model(section.__name__, __base__=section, __module__=section.__module__, **blocks)
        extended.__doc__ = section.__doc__
        extended.entries = section.entries | set(blocks)
        return extended

    return extend


def or_own(kind: type[Section], *, several: bool = False) -> tuple[Any, ...]:
    """Return the metadata of a field that takes, besides names, an object of a class: a user's own, from Python.

    Args:
        kind: the class.
        several: whether the field also takes several objects; it then holds a tuple, also of a single one.
    """

    def validated(value: Any, named: Callable[[Any], Any]) -> Any:
        if isinstance(value, kind):
            return (value,) if several else value
        if several and isinstance(value, (list, tuple)) and value and all(isinstance(one, kind) for one in value):
            if len(set(map(type, value))) < len(value):
                raise ValueError("two of one class")
            return tuple(value)
        return named(value)

    def said(value: Any) -> Any:
        if isinstance(value, tuple):
            return [_own_as_json(one) for one in value]
        return _own_as_json(value) if isinstance(value, Section) else value

    return WrapValidator(validated), PlainSerializer(said)


def _own_as_json(section: Section) -> dict[str, Any]:
    """Return what a user's own object is: its class, the hash of the code that defines it, and its parameters.

    Raises:
        UserError: the code cannot be read, as of a class that was typed in at Python's prompt.
    """
    kind = type(section)
    source = _source(kind)
    if not source:
        raise UserError(f"{kind.__name__}: its code cannot be read; define it in a file or a notebook")
    name = f"{kind.__module__}:{kind.__qualname__}"
    return {"class": name, "code": hashlib.sha256(source.encode()).hexdigest(), **section.model_dump(mode="json")}


def _source(kind: type) -> str:
    """Return the code of the file that defines a class, or of the cells of a notebook that define its methods.

    It is empty if it cannot be read.
    """
    module = sys.modules[kind.__module__]
    if getattr(module, "__file__", None):
        return inspect.getsource(module)
    cells: dict[str, str] = {}
    for part in kind.__mro__:
        if part.__module__ == kind.__module__:
            for method in filter(inspect.isfunction, vars(part).values()):
                if method.__module__ == kind.__module__:  # pydantic adds some of its own
                    cell = method.__code__.co_filename
                    cells[cell] = "".join(linecache.getlines(cell))  # where IPython keeps them
    return "".join(cells.values())


def choice(key: str, table: Mapping[str, type[Section]], kind: type[Section]) -> Callable[[type[S]], type[S]]:
    """Let a section's field `key` pick one entry of a table, and give every entry with parameters a block of its name.

    Adding a strategy or a model is therefore one class and one name in its folder's table. From Python, the field also
    takes an object of the class `kind`, which every entry of the table has in common.
    """

    def extend(section: type[S]) -> type[S]:
        old = section.model_fields[key]
        names: Any = Annotated[Literal[tuple(table)], *or_own(kind)]  # pyright: ignore[reportInvalidTypeForm]
        field: dict[str, Any] = {key: (names, Field(default=old.default, description=old.description))}
        picking = create_model(section.__name__, __base__=section, __module__=section.__module__, **field)
        picking.__doc__ = section.__doc__
        extended = with_blocks(table)(picking)
        extended.choices = {**section.choices, key: table}
        return own_names(key, kind, {})(extended)

    return extend


def own_names(key: str, kind: type[Section], table: Mapping[str, type[Section]]) -> Callable[[type[S]], type[S]]:
    """Let a section's field `key` also name classes of the user's, as in ``my_module:MyStrategy``.

    Args:
        key: the field, which takes objects too; see `or_own`.
        kind: what the classes must be.
        table: of names that may be joined to them by +.
    """

    def extend(section: type[S]) -> type[S]:
        section.extensible = {**section.extensible, key: (kind, table)}
        return section

    return extend


def summary(kind: type[Section]) -> str:
    """Return the first paragraph of a section's docstring, on one line."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
