"""The server's end of one connection, with a mutator in it: what it has sent and is not delivered yet.

Rules of this file: without I/O and without time; whoever uses it decides when which bytes arrive. What arrives before
the first change is marked as such: up to there every answer has to reach the call that it is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.errors import ProtocolError
from everlatch.wire.framing import frame
from fuzz.findings import BrokenPromiseError
from fuzz.mutation import StreamMutator
from fuzz.sasl import SaslServer
from fuzz.server import SRVR_ANSWER, MemoryServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from fuzz.recordings import Corpus
    from fuzz.secrecy import Secrets
    from fuzz.server import World

__all__ = ["Line"]

_RECORDED = 0.25
"""How many of the bad servers are recordings, which say what they said, whatever they are asked."""
_SRVR = b"srvr"
_FIRST_CHANGES = (0, 1, 1, 2, 3, 5, 10, 30)


class Line:
    """One connection to a bad server, or to a `healthy` one; with `secrets` to one that wants SASL first."""

    def __init__(
        self,
        rng: Random,
        corpus: Corpus,
        pool: Sequence[bytes],
        world: World,
        *,
        healthy: bool = False,
        secrets: Secrets | None = None,
    ) -> None:
        refusals = 0.0 if healthy else rng.choice((0.0, 0.2))
        sasl = None if secrets is None else SaslServer(rng, secrets, is_hostile=not healthy)
        self._server = MemoryServer(world, corpus, rng, refusals=refusals, sasl=sasl)
        self._mutator: StreamMutator | None = None
        self._recording: list[bytes] | None = None
        self._is_clean = True
        self._clean_left = 0
        self._waiting = bytearray()
        self.ends = False
        """Whether the server closes when everything is delivered."""
        if not healthy:
            self._spoil(rng, corpus, pool)

    def _spoil(self, rng: Random, corpus: Corpus, pool: Sequence[bytes]) -> None:
        if rng.random() < _RECORDED:
            self._recording = rng.choice(corpus.dialogues).from_server
            self._is_clean = False
            self._mutator = StreamMutator(rng, pool, first=rng.randrange(len(self._recording) + 1))
        else:
            self._mutator = StreamMutator(rng, pool, first=rng.choice(_FIRST_CHANGES))

    @property
    def waiting(self) -> int:
        """How many bytes are to be delivered."""
        return len(self._waiting)

    def receive(self, data: bytes) -> None:
        """What the client has written. Raises `BrokenPromiseError` if no client may write that."""
        if data.startswith(_SRVR):
            self._waiting += SRVR_ANSWER if self._mutator is None else self._mutator.pass_on(SRVR_ANSWER)[0][4:]
            self.ends = True
            return
        try:
            answers = self._server.receive(data)
        except ProtocolError as error:
            raise BrokenPromiseError(f"the client wrote what no server understands: {error}") from error
        if self._recording is not None:
            answers, self._recording = self._recording, []
        for payload in answers:
            sent, as_meant = (frame(payload), True) if self._mutator is None else self._mutator.pass_on(payload)
            self._is_clean = self._is_clean and as_meant
            self._waiting += sent
            if self._is_clean:
                self._clean_left += len(sent)

    def take(self, size: int) -> tuple[bytes, bool]:
        """The next bytes, `size` at most, and whether they are as the server meant them; never some of each."""
        clean = self._clean_left > 0
        if clean:
            size = min(size, self._clean_left)
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._clean_left = max(0, self._clean_left - size)
        return data, clean
