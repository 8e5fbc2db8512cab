import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.paths import Endpoint
from everlatch.session.servers import Address, Servers, is_ip_address

A, B, C = (Endpoint(f"10.0.0.{number}", 2181) for number in (1, 2, 3))
NAME, OTHER = Endpoint("zk.example", 2181), Endpoint("other.example", 2182)


def address(endpoint, ip=None):
    return Address(ip or endpoint.host, endpoint.port, endpoint)


def servers(*endpoints, shuffle=False, seed=0):
    return Servers(endpoints, random.Random(seed), shuffle=shuffle)


def round_of(found, ips=None):
    """The rest of a round: all targets, names resolved by `ips`, which takes the failing ones out."""
    targets = []
    while (target := found.next_target()) is not None:
        if isinstance(target, Endpoint):
            resolved = (ips or {}).get(target.host)
            if resolved is not None:
                found.resolved(target, resolved)
        else:
            targets.append(target)
    return targets


def begin(found, lost=None, ips=None):
    found.begin_round(lost)
    return round_of(found, ips)


@pytest.mark.parametrize(
    ("host", "is_ip"), [("10.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("zk1", False), ("10.0.0", False)]
)
def test_is_ip_address(host, is_ip):
    assert is_ip_address(host) is is_ip


def test_addresses_name_their_server():
    assert str(address(A)) == "10.0.0.1:2181"
    assert str(address(NAME, "10.0.0.9")) == "zk.example:2181 (10.0.0.9)"


def test_the_number_of_servers():
    assert len(servers(A, B, C)) == 3


def test_nothing_before_the_first_round():
    assert servers(A).next_target() is None


def test_a_round_tries_every_server_once_in_order():
    found = servers(A, B, C)
    assert begin(found) == [address(A), address(B), address(C)]
    assert found.next_target() is None
    assert begin(found) == [address(A), address(B), address(C)]


def test_a_round_starts_behind_the_server_that_was_in_use_and_ends_with_it():
    found = servers(A, B, C)
    assert begin(found, address(A)) == [address(B), address(C), address(A)]
    assert begin(found, address(C)) == [address(A), address(B), address(C)]
    assert begin(found, address(A)) == [address(B), address(C), address(A)]


def test_the_only_server_is_tried_although_it_was_lost():
    assert begin(servers(A), address(A)) == [address(A)]


def test_an_unknown_lost_server_changes_nothing():
    assert begin(servers(A, B), address(C)) == [address(A), address(B)]


def test_names_are_resolved_when_their_turn_comes_in_every_round():
    found = servers(A, NAME, B)
    for ip in ("10.0.1.1", "10.0.1.2"):
        found.begin_round()
        assert found.next_target() == address(A)
        assert found.next_target() == NAME
        found.resolved(NAME, [ip])
        assert found.next_target() == address(NAME, ip)
        assert found.next_target() == address(B)
        assert found.next_target() is None


def test_all_addresses_of_a_name_are_tried_before_the_next_server():
    ips = {"zk.example": ["10.0.1.1", "10.0.1.2", "10.0.1.3"]}
    assert begin(servers(NAME, A), ips=ips) == [*(address(NAME, ip) for ip in ips["zk.example"]), address(A)]


@pytest.mark.parametrize("ips", [{}, {"zk.example": []}], ids=["fails", "empty"])
def test_a_failing_name_is_passed_over(ips):
    assert begin(servers(NAME, A), ips=ips) == [address(A)]


def test_an_address_behind_two_names_is_tried_once():
    ips = {"zk.example": ["10.0.0.1", "10.0.1.1"], "twin.example": ["10.0.1.1", "10.0.1.2"]}
    twin = Endpoint("twin.example", 2181)
    assert begin(servers(NAME, twin, A), ips=ips) == [
        address(NAME, "10.0.0.1"),
        address(NAME, "10.0.1.1"),
        address(twin, "10.0.1.2"),
    ]


def test_two_ports_of_a_host_are_two_servers():
    twin = A._replace(port=2182)
    assert begin(servers(A, twin)) == [address(A), address(twin)]


def test_the_lost_address_of_a_name_comes_last_of_all():
    ips = {"zk.example": ["10.0.1.1", "10.0.1.2"], "other.example": ["10.0.2.1"]}
    found = servers(NAME, OTHER)
    assert begin(found, address(NAME, "10.0.1.1"), ips) == [
        address(OTHER, "10.0.2.1"),
        address(NAME, "10.0.1.2"),
        address(NAME, "10.0.1.1"),
    ]


def test_a_lost_address_that_its_name_no_longer_has_is_not_tried():
    found = servers(NAME)
    assert begin(found, address(NAME, "10.0.1.1"), {"zk.example": ["10.0.1.2"]}) == [address(NAME, "10.0.1.2")]


def test_what_was_left_of_a_round_is_forgotten():
    ips = {"zk.example": ["10.0.1.1", "10.0.1.2"]}
    found = servers(NAME)
    found.begin_round(address(NAME, "10.0.1.1"))
    found.next_target()
    found.resolved(NAME, ips["zk.example"])
    used = found.next_target()
    assert used == address(NAME, "10.0.1.2")
    assert begin(found, used, {"zk.example": ["10.0.1.3"]}) == [address(NAME, "10.0.1.3")]


def test_again_puts_an_address_first():
    found = servers(A, B, C)
    found.begin_round()
    first = found.next_target()
    found.again(first)
    assert round_of(found) == [address(A), address(B), address(C)]


def test_again_for_the_lost_server_when_its_turn_had_come():
    found = servers(A, B)
    assert begin(found, address(A)) == [address(B), address(A)]
    found.again(address(A))
    assert round_of(found) == [address(A)]


def test_again_for_another_leaves_the_lost_server_last():
    ips = {"zk.example": ["10.0.1.1", "10.0.1.2", "10.0.1.3"]}
    found = servers(NAME)
    found.begin_round(address(NAME, "10.0.1.2"))
    assert found.next_target() == NAME
    found.resolved(NAME, ips["zk.example"])
    first = found.next_target()
    found.again(first)
    assert [target.ip for target in round_of(found)] == ["10.0.1.1", "10.0.1.3", "10.0.1.2"]


@given(st.integers())
def test_shuffling_loses_nothing(seed):
    ips = {"zk.example": [f"10.0.1.{number}" for number in range(5)]}
    found = servers(A, NAME, B, C, shuffle=True, seed=seed)
    expected = {address(A), address(B), address(C), *(address(NAME, ip) for ip in ips["zk.example"])}
    targets = begin(found, ips=ips)
    assert len(targets) == 8
    assert set(targets) == expected


def test_servers_are_shuffled_once_and_the_addresses_of_a_name_each_time():
    ips = {"zk.example": [f"10.0.1.{number}" for number in range(6)]}
    found = servers(A, B, C, NAME, shuffle=True, seed=3)
    rounds = [begin(found, ips=ips) for _ in range(4)]
    fixed = [[target.ip for target in targets if target.endpoint != NAME] for targets in rounds]
    named = [[target.ip for target in targets if target.endpoint == NAME] for targets in rounds]
    assert all(order == fixed[0] for order in fixed)
    assert len({tuple(order) for order in named}) > 1


def test_clients_spread():
    firsts = {begin(servers(A, B, C, shuffle=True, seed=seed))[0] for seed in range(20)}
    assert firsts == {address(A), address(B), address(C)}


# -- what was found out


def test_those_that_serve_come_first_in_the_order_of_the_list():
    found = servers(A, B, C)
    found.prefer([address(C), address(B)], [])
    assert begin(found) == [address(B), address(C), address(A)]
    assert begin(found, address(B)) == [address(C), address(A), address(B)], "the lost one is the last of all"


def test_those_that_do_not_serve_come_last_but_for_the_lost_one():
    found = servers(A, B, C)
    found.prefer([], [address(A), address(B)])
    assert begin(found, address(C)) == [address(A), address(B), address(C)]
    found.prefer([address(C)], [address(A), address(B)])
    assert begin(found) == [address(C), address(A), address(B)]
    assert begin(found, address(A)) == [address(C), address(B), address(A)]


def test_what_is_known_of_a_names_address_counts_before_the_name_is_resolved():
    found = servers(A, NAME)
    found.prefer([address(NAME, "10.0.1.2")], [])
    found.begin_round()
    assert found.next_target() == address(NAME, "10.0.1.2")
    assert found.next_target() == address(A)
    assert found.next_target() == NAME
    found.resolved(NAME, ["10.0.1.1", "10.0.1.2"])
    assert round_of(found) == [address(NAME, "10.0.1.1")]


def test_one_that_was_avoided_is_not_when_it_answers():
    found = servers(A, B)
    found.prefer([], [address(B)])
    found.begin_round()
    found.again(address(B))
    assert round_of(found) == [address(B), address(A)]


def test_whether_there_are_more():
    found = servers(A, B)
    assert not found.has_more
    found.begin_round(address(A))
    assert found.has_more
    assert round_of(found) == [address(B), address(A)]
    assert not found.has_more


# -- spares


def test_spares_are_others_one_after_the_other():
    found = servers(A, B, C)
    assert [found.spare(address(A)) for _ in range(3)] == [address(B), address(C), address(B)]


def test_a_spare_is_nobody_who_does_not_serve():
    found = servers(A, B, C, NAME)
    found.prefer([address(NAME, "10.0.1.1"), address(C)], [address(B)])
    assert [found.spare(address(A)) for _ in range(3)] == [
        address(C),
        address(NAME, "10.0.1.1"),
        address(C),
    ]


def test_there_may_be_no_spare():
    assert servers(A).spare(address(A)) is None
    assert servers(NAME, OTHER).spare(address(NAME, "10.0.1.1")) is None, "no address is known"
    assert servers(A).spare(None) == address(A)


# -- another list


def moved(found, *endpoints, used=None):
    """Whether the server in use is left, and the round after that."""
    used = address(used) if isinstance(used, Endpoint) else used
    moves = found.update(endpoints, used)
    return moves, begin(found, used if moves else None)


D, E, F = (Endpoint(f"10.0.0.{number}", 2181) for number in (4, 5, 6))


def test_which_addresses_may_be_of_a_server():
    found = servers(A, NAME)
    assert found.has(address(A))
    assert found.has(address(NAME, "10.0.9.9"))
    assert found.has(address(OTHER, "10.0.0.1")._replace(port=2181)), "by its address"
    assert not found.has(address(OTHER, "10.0.0.1"))
    assert not found.has(address(B))


def test_the_same_list_changes_nothing():
    found = servers(A, B, C)
    for used in (A, B, C):
        assert found.update([A, B, C], address(used)) is False
    assert set(found) == {A, B, C}


def test_a_server_that_is_not_on_the_list_is_left():
    moves, targets = moved(servers(A, B, C), B, C, used=A)
    assert moves
    assert set(targets) == {address(B), address(C)}


def test_nothing_is_left_when_nothing_is_used():
    assert servers(A, B).update([C], None) is False


def test_a_server_listed_twice_counts_once():
    found = servers(A)
    found.update([B, C, B], None)
    assert len(found) == 2


def test_one_used_by_its_name_stays_when_the_name_gives_way_to_its_addresses():
    found = servers(NAME)
    assert not found.update([A, B], address(NAME, "10.0.0.1"))
    assert set(found) == {A, B}


def shares(old, new, count=3000):
    """How many clients of each old server use which server after the change."""
    used = {}
    for seed in range(count):
        found = servers(*old, shuffle=True, seed=seed)
        before = begin(found)[0]
        after = before
        if found.update(new, before):
            found.begin_round(before)
            after = found.next_target()
        used[after.endpoint] = used.get(after.endpoint, 0) + 1
    return {endpoint: part / count for endpoint, part in used.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((A, B, C), (A, B, C, D, E)),
        ((A, B, C), (A, B)),
        ((A, B, C), (A, D, E)),
        ((A, B, C, D), (A, E)),
        ((A,), (A, B, C, D, E, F)),
        ((A, B), (C, D)),
        ((A, B, C), (D, E, F, A, B)),
    ],
)
def test_clients_spread_evenly_over_the_new_list(old, new):
    used = shares(old, new)
    assert set(used) == set(new)
    assert all(part == pytest.approx(1 / len(new), abs=0.04) for part in used.values())


def test_no_more_move_than_it_takes():
    """From three servers to four: a quarter of the clients."""
    moves = [servers(A, B, C, shuffle=True, seed=seed).update([A, B, C, D], address(A)) for seed in range(2000)]
    assert sum(moves) / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_round_goes_on_with_the_new_list():
    found = servers(A, B, C)
    found.begin_round(address(B))
    assert found.next_target() == address(C)
    found.update([D, B, C], None)
    targets = round_of(found)
    assert set(targets) == {address(D), address(B)}, "C was tried, A is gone"
    assert targets[-1] == address(B), "the lost one is still the last"


def test_an_address_that_waits_for_its_turn_goes_with_its_server():
    found = servers(A, B, C)
    found.prefer([], [address(A)])
    found.begin_round(address(B))
    assert found.next_target() == address(C)
    assert found.next_target() == address(A), "avoided, and so the last but the lost one, which waits now"
    found.update([C, D], None)
    assert round_of(found) == [address(D)]


def test_what_is_known_of_removed_servers_is_forgotten():
    found = servers(A, B)
    found.prefer([address(B)], [])
    found.update([A, C], None)
    found.begin_round()
    assert set(round_of(found)) == {address(A), address(C)}
    found.update([A, B, C], None)
    assert found._known() == []


# -- those that cost more


def test_those_that_are_held_back_come_behind_others_but_before_those_that_do_not_serve():
    found = servers(A, B, C)
    found.hold_back([("10.0.0.1", 2181)])
    assert begin(found) == [address(B), address(C), address(A)]
    found.prefer([], [address(B)])
    assert begin(found) == [address(C), address(A), address(B)]
    assert begin(found, address(A)) == [address(C), address(B), address(A)], "the lost one is the last of all"
    found.hold_back([])
    assert begin(found) == [address(C), address(A), address(B)]


def test_one_that_was_held_back_is_not_when_it_answers():
    found = servers(A, B)
    found.hold_back([("10.0.0.2", 2181)])
    found.begin_round()
    found.again(address(B))
    assert round_of(found) == [address(B), address(A)]


def test_a_spare_is_held_back_only_if_there_is_no_other():
    found = servers(A, B, C)
    found.hold_back([("10.0.0.2", 2181)])
    assert [found.spare(address(A)) for _ in range(2)] == [address(C), address(C)]
    assert found.spare(address(C)) == address(A)
    found.hold_back([("10.0.0.2", 2181), ("10.0.0.3", 2181)])
    assert [found.spare(address(A)) for _ in range(2)] == [address(C), address(B)]


def test_whether_there_is_one_address_only():
    assert servers(A).has_one_address
    assert not servers(A, B).has_one_address
    found = servers(NAME)
    assert found.has_one_address, "as far as is known"
    found.resolved(NAME, ["10.0.1.1", "10.0.1.2"])
    assert not found.has_one_address
    found.resolved(NAME, ["10.0.1.1", "10.0.1.1"])
    assert found.has_one_address
    found.resolved(NAME, ["10.0.1.1", "10.0.1.2"])
    found.update([A], None)
    assert found.has_one_address
