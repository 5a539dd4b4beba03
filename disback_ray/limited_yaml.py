"""YAML from anywhere: PyYAML's safe loader, with limits on how much there is and how deep, aliases counted as what they stand for.

A key that is there twice is refused: PyYAML would take the last and drop what the first one says.
"""

from typing import Any

import yaml

MOST_BYTES, MOST_NODES, MOST_DEPTH = 1 << 20, 20_000, 40
"""The largest of the recipes that are shipped has 3 kB, 100 nodes, and is 5 deep."""
MOST_DIGITS = 400
"""Python reads 1:1:1:…, of base 60, in quadratic time, and doesn't write whole numbers of more than 4,300 digits."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class NotYaml(ValueError):
    """In one line, why a text is not read."""


class _Loader(yaml.SafeLoader):
    """Counts while it composes, and stops before anything is built."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes = self.depth = 0
        self.sizes: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        anchor, before = event.anchor, self.nodes
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.anchors and anchor not in self.sizes:
                raise NotYaml(f"*{anchor} stands for what it is in")
            self.nodes += self.sizes.get(anchor, 0)
        else:
            self.nodes += 1
        if self.nodes > MOST_NODES:
            raise NotYaml(f"more than {MOST_NODES:,} values, with what aliases (*name) stand for")
        if self.depth >= MOST_DEPTH:
            raise NotYaml(f"nested more than {MOST_DEPTH} deep")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if anchor is not None:
            self.sizes.setdefault(anchor, self.nodes - before)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and len(node.value) > MOST_DIGITS:
            raise NotYaml(f"line {node.start_mark.line + 1}: a number of more than {MOST_DIGITS} characters")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except NotYaml:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise NotYaml(f"line {node.start_mark.line + 1}: a value that doesn't fit its tag ({type(error).__name__})") from None

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                raise NotYaml(f"{key.value} is there twice in one place, the second time in line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))
        return node


def load(text: str | bytes) -> Any:
    """The values in a text. Raises NotYaml where it is no YAML, or more than a file of settings is."""
    if len(text) > MOST_BYTES:
        raise NotYaml(f"larger than {MOST_BYTES >> 20} MiB")
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        loader = _Loader(decoded)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except NotYaml:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(_said(error)) from None


def _said(error: Exception) -> str:
    """PyYAML's own has a drawing of the place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and (mark := error.problem_mark or error.context_mark):
        return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(error.problem.split())}"
    return " ".join(str(error).split())
