"""Values of Arrow: what kind they are, and as Python has them, whatever Arrow lets land."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are texts, however Arrow holds them."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain_value(landed: pa.Scalar) -> Any:
    """The value as Python has it. What Python cannot hold is said by its parts, and they as text."""
    try:
        return landed.as_py()
    except Exception:  # whatever it is that Arrow lets land, the row is kept
        return _said(landed)


def _said(landed: pa.Scalar) -> Any:
    import pyarrow as pa

    kind = landed.type
    if isinstance(landed, pa.StructScalar):
        parts = [(field.name, plain_value(landed[place])) for place, field in enumerate(kind)]
        return dict(parts) if len(dict(parts)) == len(parts) else [list(part) for part in parts]
    if isinstance(landed, pa.ListScalar):
        return [plain_value(part) for part in landed.values]
    if pa.types.is_timestamp(kind) and kind.tz not in (None, "UTC"):  # a zone that Python does not know
        return plain_value(landed.cast(pa.timestamp(kind.unit, "UTC")))
    inner = getattr(landed, "value", None)
    return plain_value(inner) if isinstance(inner, pa.Scalar) else f"{kind} {inner}"
