"""Records as the tests see them: how one is encoded, and what the decoder makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from hypothesis import strategies as st


@dataclass
class Codec:
    """One record: how it is encoded from arguments, and what the decoder makes of it."""

    encode: Callable[..., bytes]
    decode: Callable[[bytes, int, int], Any]
    arguments: st.SearchStrategy[tuple[Any, ...]]
    sample: tuple[Any, ...]
    expected: Callable[..., Any]
    name: str = ""

    def __str__(self) -> str:
        return self.name


def named(
    module: ModuleType,
    name: str,
    arguments: st.SearchStrategy[tuple[Any, ...]],
    sample: tuple[Any, ...],
    expected: Callable[..., Any],
) -> Codec:
    """The codec made of `encode_<name>` and `decode_<name>` of a module."""
    return Codec(
        getattr(module, f"encode_{name}"), getattr(module, f"decode_{name}"), arguments, sample, expected, name
    )


def functions(module: ModuleType) -> set[str]:
    """What a module can encode or decode, by name."""
    return {name.partition("_")[2] for name in module.__all__ if name.startswith(("encode_", "decode_"))}


def distinct(codecs: list[Codec]) -> list[Codec]:
    """Without those that are other names of the same two functions: trying many values with one of them will do."""
    return list({(codec.encode, codec.decode): codec for codec in reversed(codecs)}.values())
