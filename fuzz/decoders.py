"""Level 1: every decoder of `everlatch.wire`, in both directions, and the reader of frames.

What is promised: on any bytes whatever a decoder returns a value or raises a `ProtocolError`; it looks at nothing
behind `end`; a value can be shown, and encoded and decoded again to an equal one; memory is in proportion to the input.
The frames that a reader cuts don't depend on the pieces in which the bytes come.

Rules of this file: targets are found by their names, so that a new decoder is fuzzed without a line here. The costly
checks are made on one input of `_EXAMINED`, and on each one that is replayed; memory is measured in one batch of
`_MEASURED`.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import tracemalloc
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from everlatch import wire
from everlatch.errors import FrameTooLargeError, InvalidArgumentError, ProtocolError
from everlatch.wire.codes import Op
from everlatch.wire.framing import FrameReader, frame
from everlatch.wire.jute import decode_text, decode_vector, encode_string, encode_vector
from fuzz.findings import BrokenPromiseError, Finding, described
from fuzz.mutation import Mutator
from fuzz.watchdog import Hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from fuzz.findings import Findings
    from fuzz.recordings import Corpus
    from fuzz.watchdog import Watchdog

__all__ = ["BATCH", "Decoders", "Target", "targets"]

BATCH = 4096
"""Inputs of one batch."""

_EXAMINED = 16
_MEASURED = 32
_ROUND = 32
"""So many mutants in a row are of the same target and seed."""
_STRANGE_SEED = 0.1
_FRAME_LIMIT = 1 << 20
_OF_FIELDS = frozenset({"jute", "structures"})
"""The modules whose decoders return the position behind the value as well."""
_JUNK = b"\x7f\xff\xff\xff"
_SLACK = 1 << 15
_MOST_PER_BYTE = 64
"""Bytes of memory for a byte of input: the smallest items of a list, which take 4 bytes, are objects of about 100."""
_LONGEST_MESSAGE = 2000


class Target(NamedTuple):
    """One decoder, and what its inputs are made of."""

    name: str
    decode: Callable[[bytes, int, int], Any]
    """As it is, or, of a field or a record in a record, without the position behind it."""
    encode: Callable[[Any], bytes] | None
    """From what `decode` returns; `None`: there is no such encoder."""
    seeds: list[bytes]


# --- targets ------------------------------------------------------------------------------------------------------


def targets(corpus: Corpus) -> list[Target]:
    """All decoders, by their first name where several names are one function, and the reader of frames."""
    found: dict[Any, Target] = {}
    for module in map(import_module, (f"{wire.__name__}.{name}" for name in wire.__all__)):
        for name in sorted(vars(module)):
            if name.startswith(("decode_", "read_")) and name in module.__all__ and name != "decode_vector":
                _add(found, module, name, corpus)
    found["vector"] = Target(
        "jute.decode_vector", _decode_texts, _encode_texts, corpus.replies.get(Op.GET_CHILDREN, [])[:]
    )
    found["frames"] = Target("framing.FrameReader", _read_frames, None, [_stream(corpus, n) for n in range(1, 6)])
    spare = corpus.payloads
    return [target._replace(seeds=[seed for seed in target.seeds if seed] or spare) for target in found.values()]


def _add(found: dict[Any, Target], module: ModuleType, name: str, corpus: Corpus) -> None:
    decode = getattr(module, name)
    seeds = _seeds(name.partition("_")[2], corpus)
    if decode in found:  # another name of the same function: more seeds for it
        found[decode].seeds.extend(seeds)
        return
    home = module.__name__.rpartition(".")[2]
    with_position = home in _OF_FIELDS or name.startswith("read_")
    value_of = _without_position(decode) if with_position else decode
    found[decode] = Target(f"{home}.{name}", value_of, _encoder(module, name), seeds)


def _without_position(decode: Callable[[bytes, int, int], Any]) -> Callable[[bytes, int, int], Any]:
    def value_of(buf: bytes, pos: int, end: int) -> Any:
        value, behind = decode(buf, pos, end)
        if not pos <= behind <= end:
            raise BrokenPromiseError(f"the value ends at {behind}, outside of {pos} to {end}")
        return value

    return value_of


def _seeds(name: str, corpus: Corpus) -> list[bytes]:
    """Bodies of the operation that a name such as `get_data_reply` speaks of."""
    operation, _, direction = name.rpartition("_")
    if name == "watcher_event":
        return corpus.events[:]
    if operation == "connect":
        return (corpus.connect_requests if direction == "request" else corpus.connect_responses)[:]
    if direction == "header":
        return corpus.payloads
    bodies = corpus.requests if direction == "request" else corpus.replies
    known = Op.__members__.get(operation.upper())
    wanted = {Op.MULTI: (Op.MULTI, Op.MULTI_READ), None: ()}.get(known, (known,))
    return [body for op in wanted if op is not None for body in bodies.get(op, [])]


def _encoder(module: ModuleType, name: str) -> Callable[[Any], bytes] | None:
    encode = getattr(module, f"encode_{name.partition('_')[2]}", None)
    if encode is None:
        return None
    several = len(inspect.signature(encode).parameters) > 1

    def from_value(value: Any) -> bytes:
        encoded: bytes = encode(*value) if several else encode(value)
        return encoded

    return from_value


def _encode_texts(texts: list[str] | None) -> bytes:
    return encode_vector(texts, encode_string)


def _decode_texts(buf: bytes, pos: int, end: int) -> list[str] | None:
    texts, _ = decode_vector(buf, pos, end, decode_text, smallest=4)
    return texts


def _stream(corpus: Corpus, count: int) -> bytes:
    payloads = corpus.payloads
    return b"".join(map(frame, payloads[count * 7 : count * 7 + count]))


def _read_frames(buf: bytes, pos: int, end: int) -> list[bytes]:
    """Reads a stream whole and in pieces; how it ends must be the same."""
    data = buf[pos:end]
    whole, whole_error, held = _cut(iter([data]))
    size = 1 + len(data) % 7
    pieces, error, rest = _cut(data[at : at + size] for at in range(0, len(data), size))
    if (whole, str(whole_error), held) != (pieces, str(error), rest):
        raise BrokenPromiseError(f"{whole}, {whole_error!r} at once, {pieces}, {error!r} in pieces of {size}")
    if whole_error is not None:
        raise whole_error
    return whole


def _cut(chunks: Iterator[bytes]) -> tuple[list[bytes], ProtocolError | None, int]:
    reader = FrameReader(_FRAME_LIMIT)
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            for buf, start, end in reader.feed(chunk):
                if not 0 <= start <= end <= len(buf):
                    raise BrokenPromiseError(f"a frame from {start} to {end} of {len(buf)} bytes")
                frames.append(buf[start:end])
    except ProtocolError as error:
        if isinstance(error, FrameTooLargeError) and len(reader.pending_head) > 4:
            raise BrokenPromiseError("more than the head of a refused frame is kept") from error
        # What is held back after an error depends on the pieces, and nobody asks for it.
        return frames, error, 0
    return frames, None, reader.pending


# --- running ------------------------------------------------------------------------------------------------------


class Decoders:
    """Level 1."""

    name = "decoders"

    def __init__(self, corpus: Corpus, watchdog: Watchdog) -> None:
        self._targets = targets(corpus)
        self._by_name = {target.name: target for target in self._targets}
        self._pool = corpus.payloads
        self._watchdog = watchdog
        self._hung: set[str] = set()
        """Targets that are left alone: each further hang would cost as much time again."""

    @property
    def target_names(self) -> list[str]:
        """What is fuzzed."""
        return sorted(self._by_name)

    def run(self, seed: int, batch: int, findings: Findings) -> int:
        """The inputs of a batch; returns how many there were. After a hang it goes on with the other targets."""
        rng = random.Random(f"{seed} {self.name} {batch}")
        mutator = Mutator(rng, self._pool)
        measured = batch % _MEASURED == 0
        if measured:
            tracemalloc.start()
        try:
            for _ in range(BATCH // _ROUND):
                target = self._targets[int(rng.random() * len(self._targets))]
                seeds = target.seeds if rng.random() > _STRANGE_SEED else self._pool
                data = seeds[int(rng.random() * len(seeds))]
                if target.name in self._hung:
                    continue
                for finding in self._mutants(target, mutator, data, measured=measured):
                    findings.add(finding)
        finally:
            if measured:
                tracemalloc.stop()
        return BATCH

    def _mutants(self, target: Target, mutator: Mutator, seed: bytes, *, measured: bool) -> list[Finding]:
        """The hot loop: `_ROUND` inputs for one target, all made from one seed."""
        decode, mutate = target.decode, mutator.mutate
        found: list[Finding] = []
        data = seed
        self._watchdog.start()
        for number in range(_ROUND):
            try:
                # Every other one is made of the last one, so that changes add up.
                data = mutate(data if number & 1 else seed)
                if number % _EXAMINED == 0:
                    self._examine(target, data)
                elif measured:
                    _measure(decode, data)
                else:
                    decode(data, 0, len(data))
            except ProtocolError:
                pass
            except Exception as error:
                found.append(self._finding(target, data, error))
            except Hang as error:
                self._watchdog.stop()
                found.append(self._finding(target, data, error))
                self._hung.add(target.name)
                break
        self._watchdog.stop()
        return found

    def replay(self, name: str, data: bytes, findings: Findings) -> None:
        """All checks of one input. Raises `KeyError` for a target that doesn't exist."""
        target = self._by_name[name]
        tracemalloc.start()
        self._watchdog.start()
        try:
            self._examine(target, data)
            _measure(target.decode, data)
        except ProtocolError:
            pass
        except (Exception, Hang) as error:
            findings.add(self._finding(target, data, error))
        finally:
            self._watchdog.stop()
            tracemalloc.stop()

    def _finding(self, target: Target, data: bytes, error: BaseException) -> Finding:
        what, trace = described(error)
        replay = f"{self.name}/{target.name}/{data.hex()}"
        return Finding(self.name, target.name, what, "" if isinstance(error, Hang) else trace, data, replay)

    # -- what is examined

    def _examine(self, target: Target, data: bytes) -> None:
        size = len(data)
        alone = _outcome(target.decode, data, 0, size)
        if alone != _outcome(target.decode, data + _JUNK, 0, size):
            raise BrokenPromiseError("what stands behind the end makes a difference")
        within = _outcome(target.decode, _JUNK + data + _JUNK, len(_JUNK), len(_JUNK) + size)
        if alone[0] != within[0]:
            raise BrokenPromiseError(f"{alone} at the start of a buffer, {within} in the middle")
        if target.encode is not None and alone[0] == "value":
            _check_round_trip(target, target.decode(data, 0, size))


def _outcome(decode: Callable[[bytes, int, int], Any], buf: bytes, pos: int, end: int) -> tuple[str, str]:
    try:
        return "value", repr(decode(buf, pos, end))
    except ProtocolError as error:
        message = str(error)
        if not message or len(message) > _LONGEST_MESSAGE:
            raise BrokenPromiseError(f"an error with a message of {len(message)} characters") from error
        return type(error).__name__, message


def _check_round_trip(target: Target, value: Any) -> None:
    assert target.encode is not None
    try:
        encoded = target.encode(value)
    except InvalidArgumentError:  # a server may say what a client may not: a TTL with the flags of a container
        return
    again = target.decode(encoded, 0, len(encoded))
    if again != value:
        raise BrokenPromiseError(f"{value!r:.300} was encoded and decoded to {again!r:.300}")


def _measure(decode: Callable[[bytes, int, int], Any], data: bytes) -> None:
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    with contextlib.suppress(ProtocolError):
        decode(data, 0, len(data))
    taken = tracemalloc.get_traced_memory()[1] - before
    if taken > _SLACK + _MOST_PER_BYTE * len(data):
        raise BrokenPromiseError(f"{taken} bytes of memory for {len(data)} bytes")
