"""Mutations that Cosmic Ray lacks: another key, another attribute, an argument less or in another place, another digit.

Each is an operator as Cosmic Ray's own are: it yields the positions in a parso tree where it applies, and mutates one.
A name is replaced by the next one of the same kind in the module, so that a mutant mistakes Dice for IoU or p50 for
p90 and does not only crash.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

import parso
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Name, String
from parso.tree import BaseNode, Leaf, NodeOrLeaf

Position = tuple[tuple[int, int], tuple[int, int]]
TOKEN = re.compile(r"""(?P<quote>["'])(?P<text>\S+)(?P=quote)""")  # a key or a name; text with a space is wording


def leaves(node: NodeOrLeaf) -> Iterator[Leaf]:
    if isinstance(node, BaseNode):
        for child in node.children:
            yield from leaves(child)
    else:
        yield node


def following(found: Iterator[str], one: str) -> str:
    """Return what comes after `one` in the order of first appearance, the first after the last."""
    distinct = list(dict.fromkeys(found))
    other = distinct[(distinct.index(one) + 1) % len(distinct)]
    return other if other != one else f"{one}_"


class ReplaceKey(Operator):
    """Put the module's next string of one word in the place of another: keys, names of precisions, units."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        if isinstance(node, String) and TOKEN.fullmatch(node.value):
            yield node.start_pos, node.end_pos

    def mutate(self, node: String, index: int) -> String:
        strings = (leaf.value for leaf in leaves(node.get_root_node()) if isinstance(leaf, String))
        others = (match["text"] for match in map(TOKEN.fullmatch, strings) if match)
        found = TOKEN.fullmatch(node.value)
        assert found
        return String(f'"{following(others, found["text"])}"', node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example('a["mean"], a["lower"]', 'a["lower"], a["lower"]'),)


class ReplaceAttribute(Operator):
    """Read the next attribute in the place of another: of those read from the same name, else of all in the module."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        if _read_attribute(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Name, index: int) -> Name:
        every = [leaf for leaf in leaves(node.get_root_node()) if _read_attribute(leaf)]
        near = [leaf.value for leaf in every if _owner(leaf) == _owner(node)]
        names = near if len(set(near)) > 1 else [leaf.value for leaf in every]
        return Name(following(iter(names), node.value), node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a.tp + a.fp", "a.fp + a.fp"),)


def _read_attribute(node: NodeOrLeaf) -> bool:
    trailer = node.parent
    return isinstance(node, Name) and trailer.type == "trailer" and trailer.children[0] == "."


def _owner(node: Name) -> str:
    siblings = node.parent.parent.children
    before = siblings[: siblings.index(node.parent)]
    return "".join(part.get_code(include_prefix=False) for part in before)


class DropArgument(Operator):
    """Call without a keyword argument, or with None in the place of a positional one.

    Of a keyword that is True or False the other value is enough, and Cosmic Ray puts it there.
    """

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        yield from ((argument.start_pos, argument.end_pos) for argument in self._droppable(node))

    @staticmethod
    def _droppable(node: NodeOrLeaf) -> list[NodeOrLeaf]:
        kept = ("=True", "=False")
        return [one for one in _arguments(node) if not one.get_code(include_prefix=False).endswith(kept)]

    def mutate(self, node: BaseNode, index: int) -> NodeOrLeaf:
        arguments, dropped = _arguments(node), self._droppable(node)[index]
        texts = [argument.get_code(include_prefix=False) for argument in arguments]
        texts[arguments.index(dropped)] = "" if _keyword(dropped) else "None"
        return _call(node, [text for text in texts if text])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return Example("f(a, b=c)", "f(None, b=c)"), Example("f(a, b=c)", "f(a)", occurrence=1)


class SwapArguments(Operator):
    """Call with two neighbouring positional arguments in each other's place, unless the result is the same."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        if not _is_symmetric(node):
            yield from ((one.start_pos, other.end_pos) for one, other in _pairs(node))

    def mutate(self, node: BaseNode, index: int) -> NodeOrLeaf:
        arguments = _arguments(node)
        texts = [argument.get_code(include_prefix=False) for argument in arguments]
        place = arguments.index(_pairs(node)[index][0])
        texts[place : place + 2] = texts[place + 1], texts[place]
        return _call(node, texts)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b)", "f(b, a)"),)


def _is_symmetric(node: NodeOrLeaf) -> bool:
    """Return whether a call is of min, max, np.minimum, np.maximum or np.hypot."""
    name = node.get_previous_sibling() if node.type == "trailer" else None
    return name is not None and name.get_code(include_prefix=False) in ("min", "max", ".minimum", ".maximum", ".hypot")


def _arguments(node: NodeOrLeaf) -> list[NodeOrLeaf]:
    """Return the arguments of a call, and of nothing else."""
    if node.type != "trailer" or node.children[0] != "(" or len(node.children) != 3:
        return []
    inside = node.children[1]
    return [child for child in (inside.children if inside.type == "arglist" else [inside]) if child != ","]


def _keyword(argument: NodeOrLeaf) -> bool:
    return argument.type == "argument" and (argument.children[1] == "=" or argument.children[0] in ("*", "**"))


def _pairs(node: NodeOrLeaf) -> list[tuple[NodeOrLeaf, NodeOrLeaf]]:
    arguments = _arguments(node)
    return [pair for pair in pairwise(arguments) if not any(map(_keyword, pair))]


def _call(node: BaseNode, arguments: list[str]) -> NodeOrLeaf:
    call = parso.parse(f"f({', '.join(arguments)})").children[0]
    trailer = call.children[1] if call.children[1].type == "trailer" else call.children[0].children[1]
    trailer.parent = node.parent
    return trailer


class ChangeFormat(Operator):
    """Write a number with one digit more: ``:.4f`` becomes ``:.5f``."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        if node.type == "fstring_string" and node.parent.type == "fstring_format_spec" and re.search(r"\d", node.value):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Leaf, index: int) -> Leaf:
        node.value = re.sub(r"\d+", lambda match: str(int(match[0]) + 1), node.value)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example('f"{a:.4f}"', 'f"{a:.5f}"'),)


OPERATORS = {one.__name__: one for one in (ReplaceKey, ReplaceAttribute, DropArgument, SwapArguments, ChangeFormat)}
