"""The sentence under each field of a config, read from its source file: Python keeps no docstrings of attributes."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping


@functools.cache
def field_docs(cls: type) -> Mapping[str, str]:
    """Return field -> the text below it, on one line; fields of base classes too. Empty where there is no source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object:
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs
