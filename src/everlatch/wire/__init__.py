"""The wire: bytes to values and back, both ways, so that a client and a server in memory can be built on it.

    jute        the primitives: numbers, strings, buffers, vectors
    codes       every number with a name: operations, special xids, create modes, watch modes
    framing     the stream cut into frames
    headers     what stands in front of every request and reply after the handshake
    handshake   ConnectRequest and ConnectResponse
    structures  what records are made of: Stat, ACL lists, lists of names
    records     the bodies of the operations on nodes
    watch_records, auth_records    the bodies of those on watches and identities
    multi       transactions and multi-reads
    digest_md5  the tokens of SASL's DIGEST-MD5

Rules of this layer:

- Pure functions of their arguments: no socket, clock, thread, randomness, log or `await`. It imports nothing of
  everlatch but `errors` and `types`.
- `digest_md5` is the exception to what follows: it is text within a buffer, and has an error of its own.
- A decoder is called with `(buf, pos, end)`, never reads at or behind `end`, and on any bytes whatever returns a value
  or raises a `ProtocolError`. It trusts no length: nothing is allocated because a number said so.
- Decoders of whole records ignore bytes behind the last field they know: newer servers may append some.
- An encoder raises `InvalidArgumentError` for what doesn't fit the wire, never an error of `struct` or a codec.
- What is legal in ZooKeeper (paths, flags, sizes) is not checked here, with one exception that is documented there:
  `records.encode_create_ttl_request`.
"""

__all__ = [
    "auth_records",
    "codes",
    "digest_md5",
    "framing",
    "handshake",
    "headers",
    "jute",
    "multi",
    "records",
    "structures",
    "watch_records",
]
