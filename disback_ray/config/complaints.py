"""pydantic's complaints as one line that names the key as the user wrote it, and the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

MISSING = ("missing", "missing_argument")
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> str:
    """One complaint as `key: value: what is wrong`: the deepest, which in a union is that of the member which nearly fits."""
    problem = max(error.errors(include_url=False), key=_fit)
    keys, kind = _without_tags(problem["loc"], data, model)
    where = ".".join(str(key)[:60] for key in keys)
    if problem["type"] in UNKNOWN:
        return f"unknown key {where}{nearest(str(keys[-1]), _keys(kind))}"
    if problem["type"] in MISSING:
        beside = [found["loc"] for found in error.errors(include_url=False) if found["type"] in MISSING]
        names = [".".join([*where.split(".")[:-1], str(loc[-1])]) for loc in beside if loc[:-1] == problem["loc"][:-1]]
        return f"{', '.join(names)}: missing"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if problem["type"].startswith("union_tag_"):
        key = ".".join(filter(None, (where, problem["ctx"]["discriminator"].strip("'"))))
        if problem["type"] == "union_tag_not_found":
            return f"{key}: missing"
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{key}: {shown(tag)}: expected one of {', '.join(known)}{nearest(tag[:60], known)}"
    if not where:
        return message
    return f"{where}: {shown(problem['input'])}: {message[:1].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """As Python writes it, and no longer than a line has room for."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} …"


def _fit(complaint: Any) -> tuple[int, int]:
    """How deep it is; of equals, not that keys stand where a word could, and rather an unknown key than one that is missing for it."""
    word = complaint["type"] == "literal_error" and isinstance(complaint["input"], Mapping)
    return len(complaint["loc"]), 0 if word else 2 if complaint["type"] in UNKNOWN else 1


def _without_tags(location: Iterable[int | str], data: Any, model: Any) -> tuple[list[int | str], Any]:
    """The keys as the user wrote them, and the type that holds the last one: pydantic adds the members of unions to its paths."""
    keys: list[int | str] = []
    holder: Any = model
    kind: Any = model
    for part in location:
        inside = isinstance(part, int) or (isinstance(data, Mapping) and part in data)
        members = [m for m in _members(kind) if part in (getattr(m, "kind", None), getattr(m, "__name__", None))]
        if members and not inside:
            kind = members[0]
            continue
        if not inside and not any(part in _keys(member) for member in _members(kind)):
            continue  # a union's member that is no class of ours, such as int or tuple[…]
        keys.append(part)
        holder = next((m for m in _members(kind) if part in _keys(m)), kind)
        kind = _field_type(holder, part)
        there = part in data if isinstance(data, Mapping) else isinstance(data, list) and part in range(len(data))
        data = data[part] if there else None
    return keys, holder


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if isinstance(kind, type) and get_origin(kind) is None:
        return [kind]
    return [member for part in get_args(kind) for member in _members(part)] if _is_union(kind) else [kind]


def _is_union(kind: Any) -> bool:
    return get_origin(kind) is Union or type(kind).__name__ in ("UnionType", "Union")


def _field_type(holder: Any, key: int | str) -> Any:
    if isinstance(holder, type) and issubclass(holder, BaseModel):
        found = {_written(name, field): field.annotation for name, field in holder.model_fields.items()}
        return found.get(str(key))
    if is_dataclass(holder):
        return {field.name: field.type for field in fields(holder)}.get(str(key))
    return None


def _written(name: str, field: FieldInfo) -> str:
    """The key in YAML: `with` is no name that Python would take."""
    return str(field.validation_alias or name)


def _keys(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [_written(name, field) for name, field in kind.model_fields.items()]
    if _is_union(kind):
        return [key for member in _members(kind) for key in _keys(member)]
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
