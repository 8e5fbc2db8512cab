"""The only code of the client that touches sockets and the clock.

Rules of this layer: it moves bytes, arms one timer, runs callbacks and keeps futures; it decides nothing about a
session (that is `session/`). It is built on the public API of event loops (`create_connection`, `getaddrinfo`,
`call_soon`, `call_later`), so that uvloop, TLS and a simulated loop fit in.

    call            what an operation returns: a future that is a coroutine too
    clock           which clock a loop is read by
    transport       connections: protocol, dialer
    lookups         name resolution that outlives an attempt
    tokens          steps of SASL in threads
    server_version  which version the server in use has, for operations that older ones lack
    lease_keeper    who rests on the lease
    server_search   what the servers tell when they are asked: who lives, who serves
    dispatch        user callbacks, kept away from each other and from us
    subscription    async iterators over what happens
    watch_subscription  persistent watches as such iterators
    changes         waiting for something that changes by itself
    audience        who hears of changes of state
    engine          owns one session and performs what it asks for
"""

__all__: list[str] = []
