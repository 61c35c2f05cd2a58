"""Small faults that can be planted in a source: one operator, number, condition or statement each."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_SKIPPED = ("annotation", "returns", "decorator_list", "type_params")  # fields of nodes that compute nothing


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: Path inside the checkout.
        line, end_line: Where what it replaces begins and ends.
        start, end: The same in bytes of the source.
        kind: What was done.
        before, after: Source of what is replaced, and of what stands there instead.
        digest: Of the whole source, so that a fault is of this version of the file.
    """

    file: str
    line: int
    end_line: int
    start: int
    end: int
    kind: str
    before: str
    after: str
    digest: str

    @property
    def key(self) -> str:
        """Tells it from all others."""
        return f"{self.file}:{self.start}:{self.end}:{self.kind}:{self.digest}"

    def planted(self, source: str) -> str:
        """The source with this fault in it."""
        data = source.encode()
        return (data[: self.start] + self.after.encode() + data[self.end :]).decode()

    def values(self) -> dict[str, Any]:
        """As a mapping for a JSON line."""
        return {"key": self.key, **asdict(self)}


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Every fault that may be planted in a source, in the order in which they stand there."""
    data, digest = source.encode(), hashlib.sha256(source.encode()).hexdigest()[:12]
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, kind, changed in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        after = changed if isinstance(changed, str) else f"({ast.unparse(changed)})"
        before = data[start:end].decode()
        found.append(Mutant(file, node.lineno, node.end_lineno or node.lineno, start, end, kind, before, after, digest))
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.kind))


def _changes(node: ast.AST) -> Iterator[tuple[Any, str, ast.expr | str]]:
    """(node, what is done, what stands there instead) of a tree."""
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Raise):  # texts; places inside them are not told right
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield from _own_changes(node)
    for name, value in ast.iter_fields(node):
        if name in _SKIPPED:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changes(child)


def _own_changes(node: ast.AST) -> Iterator[tuple[Any, str, ast.expr | str]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield node, "compare", ast.Compare(node.left, [SWAPS[type(op)]()], node.comparators)
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield node, "operator", ast.BinOp(node.left, SWAPS[type(op)](), node.right)
        case ast.BoolOp(op=op):
            yield node, "and/or", ast.BoolOp(SWAPS[type(op)](), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node, "sign", node.operand
        case ast.Constant(value=bool()):
            yield node, "boolean", ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield node, "number", ast.Constant(node.value + 1 if abs(node.value) < 1e6 else 2 * node.value)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            if not isinstance(test, ast.Compare | ast.UnaryOp):  # else it is the same as swapping that
                yield test, "condition", ast.UnaryOp(ast.Not(), test)
        case ast.AugAssign(op=op) if type(op) in SWAPS:
            changed = ast.AugAssign(node.target, SWAPS[type(op)](), node.value)
            yield node, "operator", ast.unparse(changed)
        case ast.Expr(value=ast.Call()):
            yield node, "left out", "pass"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, "return", "return None"
