"""Everything that is true of a session, however the bytes move.

Rules of this layer: pure. No socket, clock, thread, task, log line or random number of its own: `now` (seconds, any
monotonic origin) and a `random.Random` are passed in; what has to be done comes out as bytes, actions and the next
deadline. It imports `wire/` and what lies below, nothing else.

    states       which state may follow which
    requests     the queue that tells *never sent* from *sent, unanswered*
    own          the caller of the session's own requests
    looks        what the session reads for itself
    settlement   what became of writes whose replies were lost with a connection
    evidence     what a node shows of such a write
    name_search  the names of sequential nodes whose creation was never answered
    receipts     what makes a write exactly once
    credentials  what a client authenticates with, on every connection anew
    sasl         whose turn it is to send a token
    watches      one-shot watches: who waits for what
    persistent_watches  who wants which of those that stay, and who hears of an event
    rearming     the frames that arm all watches again after a reconnect
    watching     all of them together, and what is asked of servers for them
    liveness     when to ping, when a link is silent, when the session must be assumed lost
    doubt        whether a silent link is to be left
    lease        until when the session certainly lives
    commits      commits of our own, for the lease and to check the link
    rounds       how a server is looked for: budgets, and pauses between rounds
    servers      which server to try next
    retry        how long to wait after a whole round has failed, and when to give up
    rivals       the attempts beside the present one
    draining     which servers may hold old writes, and how they let go of them
    read_only    what is kept aside while a read-only server serves
    options      what a session is made of
    answers      what becomes of a request that was answered
    endings      the errors of what no server's answer ends
    actions      what the session asks its engine to do
    session      the session itself, composed of the above
"""

__all__: list[str] = []
