import pytest

from everlatch.session.liveness import Liveness


def connected(timeout=6.0, sent_at=99.5, now=100.0):
    liveness = Liveness(10.0)
    liveness.connected(sent_at, now, timeout)
    return liveness


def test_the_granted_timeout_counts():
    liveness = Liveness(10.0)
    assert liveness.timeout == 10.0
    liveness.connected(99.5, 100.0, 6.0)
    assert (liveness.timeout, liveness.ping_interval, liveness.budget, liveness.lost_at) == (6.0, 1.0, 0.75, 105.5)


@pytest.mark.parametrize(("timeout", "interval"), [(6.0, 1.0), (60.0, 10.0), (600.0, 10.0)])
def test_the_ping_interval(timeout, interval):
    assert connected(timeout).ping_interval == interval


def test_an_idle_link_is_due_for_a_ping():
    liveness = connected()
    assert liveness.next_deadline() == 101.0
    assert not liveness.ping_due(100.999)
    assert liveness.ping_due(101.0)


def test_sending_puts_the_ping_off():
    liveness = connected()
    liveness.sent(100.7)
    liveness.received(100.8, unanswered=False)
    assert liveness.next_deadline() == 101.7
    assert not liveness.ping_due(101.6)
    assert liveness.ping_due(101.7)


def test_no_ping_while_something_is_unanswered():
    liveness = connected()
    liveness.sent(100.5)
    assert not liveness.ping_due(105.0)
    assert liveness.next_deadline() == 101.25


def test_no_second_ping_before_the_first_is_answered():
    liveness = connected()
    liveness.ping_sent(101.0)
    assert not liveness.ping_due(102.9)
    liveness.received(101.5, unanswered=False)
    assert not liveness.ping_due(102.2), "an event is no answer"
    assert liveness.next_deadline() == 102.25


@pytest.mark.parametrize("send", [Liveness.sent, Liveness.ping_sent])
def test_a_link_is_silent_when_nothing_comes_for_an_eighth_and_dead_after_two_thirds(send):
    liveness = connected()
    send(liveness, 101.0)
    assert liveness.next_deadline() == 101.75
    assert not liveness.is_silent(101.749)
    assert liveness.is_silent(101.75)
    assert liveness.dead_at == 105.0
    assert not liveness.is_dead(104.999)
    assert liveness.is_dead(105.0)


def test_silence_counts_from_the_first_unanswered_request():
    liveness = connected()
    liveness.sent(101.0)
    liveness.sent(101.5)
    assert liveness.next_deadline() == 101.75
    assert liveness.dead_at == 105.0


def test_every_byte_breaks_the_silence():
    liveness = connected()
    liveness.sent(101.0)
    liveness.received(101.5, unanswered=True)
    assert not liveness.is_silent(102.2)
    assert liveness.is_silent(102.25)
    assert liveness.dead_at == 105.5


def test_nothing_unanswered_is_not_silence():
    liveness = connected()
    assert not liveness.is_silent(105.4)


def test_the_session_is_lost_a_timeout_after_the_last_answered_request_was_sent():
    liveness = connected(sent_at=99.5)
    liveness.ping_sent(100.0)
    for step in range(1, 6):  # bytes all the time, but no answer
        liveness.received(100.0 + step, unanswered=True)
    assert liveness.lost_at == 105.5
    assert liveness.next_deadline() == 105.5
    assert not liveness.is_silent(105.4)
    assert liveness.is_silent(105.5)
    liveness.proven = 101.0
    assert not liveness.is_silent(105.5)


def test_an_idle_link_is_looked_at_no_later_than_it_is_lost():
    liveness = connected(sent_at=95.0)
    assert liveness.next_deadline() == 101.0
    liveness.proven = 94.5
    assert liveness.next_deadline() == 100.5


def test_answers_that_take_longer_than_the_timeout_keep_the_link_but_not_the_session():
    """Many, or large ones, were asked for at once: the server is at it, but may have expired the session meanwhile."""
    liveness = connected(sent_at=99.5)
    liveness.sent(100.0)
    for step in range(1, 6):
        liveness.received(100.0 + step, unanswered=True)
        liveness.answered(100.0, 100.0 + step)
    assert (liveness.proven, liveness.lost_at, liveness.lapses) == (100.0, 106.0, 0)
    liveness.received(106.5, unanswered=True)
    assert not liveness.is_silent(106.5)
    liveness.answered(100.0, 106.5)
    assert (liveness.lost_at, liveness.lapses) == (106.0, 1)
    liveness.received(107.0, unanswered=False)
    assert liveness.is_silent(107.0), "nothing more is to come"


def test_the_last_answer_must_be_within_the_timeout():
    liveness = connected(sent_at=99.5)
    liveness.sent(100.0)
    liveness.received(102.0, unanswered=True)
    liveness.answered(100.0, 102.0)
    liveness.received(107.9, unanswered=True)
    assert not liveness.is_silent(107.9)
    assert liveness.is_silent(108.0)


def test_an_answer_in_time_is_no_lapse():
    liveness = connected(sent_at=99.5)
    liveness.answered(100.0, 105.4)
    assert (liveness.proven, liveness.lapses) == (100.0, 0)
    liveness.answered(105.0, 106.0)
    assert (liveness.proven, liveness.lapses) == (105.0, 1)


def test_answers_of_an_earlier_connection_do_not_count():
    liveness = connected(sent_at=99.5)
    liveness.sent(100.0)
    liveness.answered(100.0, 105.0)
    liveness.connected(101.0, 101.5, 6.0)
    liveness.sent(102.0)
    liveness.received(106.9, unanswered=True)
    assert liveness.is_silent(107.0)


def test_a_ping_goes_out_while_answers_come_in():
    """They may take longer than a session lives untouched."""
    liveness = connected()
    liveness.sent(100.5)
    liveness.received(100.9, unanswered=True)
    assert liveness.next_deadline() == 101.5
    assert not liveness.ping_due(101.4)
    assert liveness.ping_due(101.5)
    liveness.ping_sent(101.5)
    liveness.received(101.6, unanswered=True)
    assert not liveness.ping_due(103.0), "one at a time"


def test_a_new_connection_forgets_what_was_unanswered():
    liveness = connected()
    liveness.ping_sent(101.0)
    liveness.connected(101.9, 102.0, 6.0)
    assert liveness.ping_sent_at is None
    assert liveness.next_deadline() == 103.0


def test_a_lost_link_forgets_what_was_unanswered_but_not_what_was_proven():
    liveness = connected()
    liveness.ping_sent(101.0)
    liveness.disconnected()
    assert liveness.ping_sent_at is None
    assert liveness.waiting_since is None
    assert liveness.lost_at == 105.5


@pytest.mark.parametrize(("now", "late"), [(99.9, False), (100.0, False), (100.04, False), (100.06, True)])
def test_lateness(now, late):
    assert Liveness.was_late(100.0, now) is late


# -- the budget


def test_a_budget_that_was_asked_for():
    liveness = Liveness(10.0, 0.05)
    liveness.connected(99.5, 100.0, 6.0)
    assert liveness.budget == 0.05
    liveness = Liveness(10.0, 5.0)
    liveness.connected(99.5, 100.0, 6.0)
    assert liveness.budget == 2.0, "T/3 at most"


def test_what_needs_a_quorum_may_take_a_third():
    liveness = connected()
    liveness.sent(101.0)
    liveness.waits_for_commit = True
    assert liveness.next_deadline() == 103.0
    assert not liveness.is_silent(102.9)
    liveness.received(102.0, unanswered=True)
    assert liveness.budget == 0.75, "whether the rest does is to be seen"
    liveness.waits_for_commit = True
    liveness.disconnected()
    assert liveness.budget == 0.75


def test_the_budget_doubles_with_every_false_alarm_up_to_a_third():
    liveness = connected()
    for expected in (1.5, 2.0, 2.0):
        liveness.false_alarm(101.0)
        assert liveness.budget == expected
    for _ in range(5000):
        liveness.false_alarm(101.0)
    assert liveness.budget == 2.0


def test_when_there_were_none_for_long_the_budget_is_what_it_was():
    liveness = connected()
    liveness.false_alarm(101.0)
    liveness.received(161.0, unanswered=False)
    assert liveness.budget == 1.5
    liveness.received(161.1, unanswered=False)
    assert liveness.budget == 0.75


@pytest.mark.parametrize(("now", "budget"), [(160.9, 1.5), (161.1, 0.75)])
def test_so_it_is_on_another_connection(now, budget):
    liveness = connected()
    liveness.false_alarm(101.0)
    liveness.connected(now - 0.5, now, 6.0)
    assert liveness.budget == budget


def test_a_server_that_lives_may_be_slow_for_a_third():
    liveness = connected()
    liveness.sent(101.0)
    assert liveness.slow_until == 103.0


def test_an_idle_link_is_dead_with_the_session():
    assert connected(sent_at=99.5).dead_at == 105.5


def test_however_long_the_timeout_is_a_silent_link_is_found():
    liveness = connected(timeout=3600.0)
    liveness.sent(101.0)
    assert liveness.next_deadline() == 111.0
    assert liveness.slow_until == 131.0
    assert liveness.dead_at == 161.0
    liveness.waits_for_commit = True
    assert liveness.budget == 30.0


def test_what_was_kept_aside_counts_again():
    liveness = connected()
    liveness.resume(98.0, 4.0)
    assert (liveness.lost_at, liveness.timeout, liveness.budget) == (102.0, 4.0, 0.5)
