import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import arguments
from everlatch.errors import InvalidACLArgumentError, InvalidArgumentError, InvalidPathError, InvalidTypeError
from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, Permission
from everlatch.wire.structures import encode_acls

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(), st.tuples(st.integers(), st.text(), st.text())), max_size=2),
    st.tuples(st.integers(), st.text(), st.text()),
    st.dictionaries(st.text(max_size=1), st.none(), max_size=1),
)
CHECKS = [
    arguments.checked_data,
    arguments.checked_version,
    arguments.checked_acl,
    arguments.checked_timeout,
    arguments.checked_config_version,
    lambda value: arguments.checked_servers("joining", value),
    lambda value: arguments.checked_ttl_ms("/a", value),
    lambda value: arguments.server_path("/root", value),
    lambda value: arguments.server_path_of_new("/root", value, True),
    lambda value: arguments.server_path_of_new("/root", value, False),
]


@pytest.mark.parametrize("check", CHECKS)
@given(value=JUNK)
def test_whatever_comes_is_accepted_or_refused_with_a_typed_error(check, value):
    with contextlib.suppress(InvalidArgumentError):
        check(value)


# -- paths


@pytest.mark.parametrize(
    ("chroot", "path", "expected"),
    [("", "/", "/"), ("", "/a/b", "/a/b"), ("/root", "/", "/root"), ("/root", "/a", "/root/a")],
)
@pytest.mark.parametrize("of_new", [False, True])
def test_server_path(chroot, path, expected, of_new):
    if of_new:
        assert arguments.server_path_of_new(chroot, path, False) == expected
    else:
        assert arguments.server_path(chroot, path) == expected


@pytest.mark.parametrize(
    ("chroot", "path", "expected"),
    [("", "/", "/"), ("", "/a/", "/a/"), ("/root", "/", "/root/"), ("/root", "/a", "/root/a")],
)
def test_a_sequential_path_is_the_beginning_of_a_name(chroot, path, expected):
    assert arguments.server_path_of_new(chroot, path, True) == expected


@pytest.mark.parametrize("path", ["", "a", "/a/", "//", "/a/../b", "/a\0"])
def test_a_bad_path_is_refused_each_time(path):
    for _ in range(2):
        with pytest.raises(InvalidPathError):
            arguments.server_path("", path)


@pytest.mark.parametrize("path", [None, b"/a", 1, ["/a"], {"/a"}])
def test_a_path_is_text(path):
    with pytest.raises(InvalidTypeError, match="a path is str"):
        arguments.server_path("", path)


# -- data and versions


def test_data_is_passed_on_as_it_is():
    data = b"x" * 10
    assert arguments.checked_data(data) is data


@pytest.mark.parametrize("data", ["text", bytearray(b"x"), memoryview(b"x"), None, 1])
def test_data_is_bytes(data):
    with pytest.raises(InvalidTypeError, match=f"data is bytes, not {type(data).__name__}"):
        arguments.checked_data(data)


@pytest.mark.parametrize("version", [-(2**31), -1, 0, 7, 2**31 - 1])
def test_versions(version):
    assert arguments.checked_version(version) == version


@pytest.mark.parametrize("version", [True, 1.0, "1", None])
def test_a_version_is_int(version):
    with pytest.raises(InvalidTypeError, match="a version is int"):
        arguments.checked_version(version)


@pytest.mark.parametrize("version", [-(2**31) - 1, 2**31])
def test_a_version_has_32_bits(version):
    with pytest.raises(InvalidArgumentError, match="32 bits"):
        arguments.checked_version(version)


# -- the configuration of an ensemble


@pytest.mark.parametrize("version", [-1, 0, 0x1_0000_0007, 2**63 - 1])
def test_config_versions(version):
    assert arguments.checked_config_version(version) == version


@pytest.mark.parametrize("version", [True, 1.0, "1", None])
def test_a_config_version_is_int(version):
    with pytest.raises(InvalidTypeError, match="from_config is int"):
        arguments.checked_config_version(version)


@pytest.mark.parametrize("version", [-2, 2**63])
def test_a_config_version_has_64_bits(version):
    with pytest.raises(InvalidArgumentError, match=f"not {version}"):
        arguments.checked_config_version(version)


@pytest.mark.parametrize(
    ("servers", "text"), [("1", "1"), ("1,2", "1,2"), (["1"], "1"), (("server.1=a:1:2;3", "2"), "server.1=a:1:2;3,2")]
)
def test_servers(servers, text):
    assert arguments.checked_servers("leaving", servers) == text


@pytest.mark.parametrize("servers", [1, [1], ["1", None], b"1", {"1": 1}, iter("12"), None])
def test_servers_are_text(servers):
    with pytest.raises(InvalidTypeError, match="leaving is str or a list of str"):
        arguments.checked_servers("leaving", servers)


@pytest.mark.parametrize("servers", ["", " ", [], (), ["1", ""]])
def test_no_server_is_empty(servers):
    with pytest.raises(InvalidArgumentError, match="leaving must name a server"):
        arguments.checked_servers("leaving", servers)


# -- ACLs


@pytest.mark.parametrize(
    "acl", [OPEN_ACL_UNSAFE, list(CREATOR_ALL_ACL), [ACL(Permission.READ, "ip", "::1"), ACL(31, "auth", "")]]
)
def test_acls(acl):
    assert arguments.checked_acl(acl) is acl


@pytest.mark.parametrize(
    ("acl", "text"),
    [
        (ACL(31, "world", "anyone"), "is a list of everlatch.ACL, not ACL"),
        ("world", "is a list of everlatch.ACL, not str"),
        (None, "not NoneType"),
        (iter(OPEN_ACL_UNSAFE), "not tuple_iterator"),
        ([], "can't be empty"),
        ((), "can't be empty"),
        ([None], "not an everlatch.ACL"),
        (["abc"], "not an everlatch.ACL"),
        ([(31, "world")], "not an everlatch.ACL"),
        ([(31, "world", "anyone")], "not an everlatch.ACL"),
        ([ACL(0, "world", "anyone")], "1 to 31, not 0"),
        ([ACL(32, "world", "anyone")], "1 to 31, not 32"),
        ([ACL("all", "world", "anyone")], "1 to 31, not 'all'"),
        ([ACL(31, "", "anyone")], "are str"),
        ([ACL(31, None, "anyone")], "are str"),
        ([ACL(31, "world", None)], "are str"),
        ([*OPEN_ACL_UNSAFE, ACL(0, "world", "anyone")], "1 to 31"),
    ],
)
def test_bad_acls(acl, text):
    with pytest.raises(InvalidACLArgumentError, match=text):
        arguments.checked_acl(acl)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(-1, 40), st.text(max_size=2), st.text(max_size=2)),
            st.builds(ACL, st.integers(-1, 40), st.text(max_size=2), st.text(max_size=2)),
        ),
        max_size=2,
    )
)
def test_what_is_accepted_can_be_encoded(acl):
    try:
        accepted = arguments.checked_acl(acl)
    except InvalidACLArgumentError:
        return
    assert encode_acls(accepted)


# -- times


@pytest.mark.parametrize(
    ("ttl", "milliseconds"), [(0.001, 1), (1, 1000), (2.5, 2500), (1.0006, 1001), (1_099_511_627.775, 0xFFFFFFFFFF)]
)
def test_ttls(ttl, milliseconds):
    assert arguments.checked_ttl_ms("/a", ttl) == milliseconds


@pytest.mark.parametrize("ttl", [0, -1, 0.0009, 1_099_511_627.776, math.nan, math.inf, True, "1", None])
def test_bad_ttls(ttl):
    with pytest.raises(InvalidArgumentError, match=r"create ./a.: a ttl is a number of seconds, 0\.001 to 1099511628"):
        arguments.checked_ttl_ms("/a", ttl)


@pytest.mark.parametrize(("timeout", "seconds"), [(0, 0.0), (1, 1.0), (2.5, 2.5), (10**9, 1e9)])
def test_timeouts(timeout, seconds):
    checked = arguments.checked_timeout(timeout)
    assert checked == seconds
    assert type(checked) is float


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400])
def test_a_timeout_beyond_all_measure_is_a_very_long_one(timeout):
    """Clocks add to it, and an event loop counts it in a number of its own."""
    assert arguments.checked_timeout(timeout) == 1e9


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan, True, False, "1", None, object()])
def test_bad_timeouts(timeout):
    with pytest.raises(InvalidArgumentError, match="a timeout is a number of seconds, 0 or more, or None"):
        arguments.checked_timeout(timeout)


def test_long_paths_are_checked_and_not_remembered():
    long = "/" + "x" * 2000
    before = arguments._valid.cache_info().currsize
    assert arguments.server_path("/app", long) == "/app" + long
    assert arguments.server_path("", long) == long
    with pytest.raises(InvalidPathError):
        arguments.server_path("", long + "/")
    assert arguments._valid.cache_info().currsize == before
