import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch import paths
from everlatch.errors import InvalidConnectStringError, InvalidPathError, InvalidTypeError
from everlatch.paths import ConnectString, Endpoint, parse_connect_string, validate_path

FORBIDDEN = [(0x00, 0x1F), (0x7F, 0x9F), (0xD800, 0xF8FF), (0xFFF0, 0xFFFF), (0x10000, 0x10FFFF)]
"""PathUtils of the server; what is beyond U+FFFF are surrogates to it."""

RELATIVE_OR_FORBIDDEN = re.compile(
    "/(/|\\.{1,2}(/|$))|[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in FORBIDDEN) + "]"
)

names = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Co"], exclude_characters="/", max_codepoint=0xFFEF), min_size=1
).filter(lambda name: name not in (".", ".."))


@given(st.lists(names, max_size=4))
def test_any_path_made_of_names(parts):
    path = "/" + "/".join(parts)
    assert validate_path(path) is path
    assert validate_path(path, sequential=True) is path


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/b", "/...", "/.a", "/a.", "/..a/b..", "/a b", "/é", "/\ufdd0", "/\uffef"]
)
def test_valid(path):
    assert validate_path(path) == path


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "must start with '/'"),
        ("a", "must start with '/'"),
        ("./a", "must start with '/'"),
        (" /a", "must start with '/'"),
        ("/a/", "must not end with '/'"),
        ("//", "empty name at 0"),
        ("//a", "empty name at 0"),
        ("/a//b", "empty name at 2"),
        ("/a//", "empty name at 2"),
        ("/.", "relative name '.' at 1"),
        ("/..", "relative name '..' at 1"),
        ("/a/./b", "relative name '.' at 3"),
        ("/a/../b", "relative name '..' at 3"),
        ("/a/..", "relative name '..' at 3"),
        ("/a\0", r"character U\+0000 at 2"),
        ("/a\n", r"character U\+000A at 2"),
        ("/\U0001f600", r"character U\+1F600 at 1"),
    ],
)
def test_invalid(path, problem):
    with pytest.raises(InvalidPathError, match=problem) as caught:
        validate_path(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(("low", "high"), FORBIDDEN)
def test_forbidden_characters(low, high):
    for code in (low, (low + high) // 2, high):
        with pytest.raises(InvalidPathError, match=f"U\\+{code:04X} at 2 is not allowed"):
            validate_path(f"/a{chr(code)}b")


@pytest.mark.parametrize("code", [0x20, 0x7E, 0xA0, 0xD7FF, 0xF900, 0xFFEF])
def test_characters_next_to_the_forbidden_ones(code):
    assert validate_path(f"/{chr(code)}")


@pytest.mark.parametrize("prefix", ["/", "/a/", "/a", "/a/.", "/a/..", "/a-"])
def test_sequential_prefixes(prefix):
    assert validate_path(prefix, sequential=True) == prefix


@pytest.mark.parametrize("prefix", ["", "a", "//", "/a//", "/./", "/../a", "/a\0"])
def test_invalid_sequential_prefixes(prefix):
    with pytest.raises(InvalidPathError):
        validate_path(prefix, sequential=True)


@pytest.mark.parametrize("path", [b"/a", None, 1, ["/a"]])
def test_a_path_is_text(path):
    with pytest.raises(InvalidTypeError, match=f"not {type(path).__name__}"):
        validate_path(path)


@given(st.text(max_size=8) | st.text("/.a", max_size=8))
def test_any_text_is_a_path_or_not(text):
    try:
        valid = validate_path(text)
    except InvalidPathError:
        # A valid path has this form, so a refused one must differ from it somewhere.
        assert not text.startswith("/") or text.endswith("/") or RELATIVE_OR_FORBIDDEN.search(text)
    else:
        assert valid == text
        assert text == "/" or (text[0] == "/" and not {"", ".", ".."} & set(text[1:].split("/")))


@pytest.mark.parametrize(("path", "above"), [("/", "/"), ("/a", "/"), ("/a/b", "/a"), ("/a/b/c", "/a/b")])
def test_parent(path, above):
    assert paths.parent(path) == above


@pytest.mark.parametrize(("path", "name", "below"), [("/", "a", "/a"), ("/a", "b", "/a/b")])
def test_join(path, name, below):
    assert paths.join(path, name) == below


@given(st.lists(names, min_size=1, max_size=4))
def test_parent_takes_back_join(parts):
    path = "/" + "/".join(parts[:-1])
    assert paths.parent(paths.join(path, parts[-1])) == path


@pytest.mark.parametrize(
    ("chroot", "path", "seen"),
    [
        ("", "/a", "/a"),
        ("/app", "/app", "/"),
        ("/app", "/app/a", "/a"),
        ("/app", "/application", "/application"),
        ("/app", "/zookeeper/config", "/zookeeper/config"),
        ("/app", "/", "/"),
    ],
)
def test_strip_chroot(chroot, path, seen):
    assert paths.strip_chroot(chroot, path) == seen


@pytest.mark.parametrize(
    ("text", "endpoints", "chroot"),
    [
        ("h", [("h", 2181)], ""),
        ("h:1", [("h", 1)], ""),
        ("h:65535", [("h", 65535)], ""),
        ("h:0080", [("h", 80)], ""),
        ("127.0.0.1:2182", [("127.0.0.1", 2182)], ""),
        ("h1:1,h2,h3:3", [("h1", 1), ("h2", 2181), ("h3", 3)], ""),
        (" h1:1 , h2:2 ", [("h1", 1), ("h2", 2)], ""),
        ("h2,h1,h2:2181", [("h2", 2181), ("h1", 2181)], ""),
        ("[::1]", [("::1", 2181)], ""),
        ("[fe80::1%eth0]:7,h", [("fe80::1%eth0", 7), ("h", 2181)], ""),
        ("h/", [("h", 2181)], ""),
        ("h/app", [("h", 2181)], "/app"),
        ("h1,h2:2/app/one", [("h1", 2181), ("h2", 2)], "/app/one"),
        ("[::1]:1/app\n", [("::1", 1)], "/app"),
    ],
)
def test_connect_strings(text, endpoints, chroot):
    assert parse_connect_string(text) == ConnectString(tuple(Endpoint(*each) for each in endpoints), chroot)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a server is empty"),
        ("/app", "a server is empty"),
        ("h1,,h2", "a server is empty"),
        ("h1,", "a server is empty"),
        ("h:", "'h:' is not host:port"),
        ("h:x", "'h:x' is not host:port"),
        ("h:-1", "'h:-1' is not host:port"),
        ("h:١", "'h:١' is not host:port"),
        (":2181", "':2181' is not host:port"),
        ("h 1:2", "'h 1:2' is not host:port"),
        ("[]:1", r"'\[\]:1' is not host:port"),
        ("[::1:1", r"not host:port \(write IPv6 addresses in brackets\)"),
        ("::1", r"not host:port \(write IPv6 addresses in brackets\)"),
        ("h:0", "port 0 of 'h:0' is not 1 to 65535"),
        ("h:65536", "port 65536 of 'h:65536' is not 1 to 65535"),
        ("h1:1,h2:99999/a", "port 99999 of 'h2:99999'"),
        ("h//app", "chroot: invalid path '//app': empty name at 0"),
        ("h/app/", "chroot: invalid path '/app/': it must not end"),
        ("h/../app", "chroot: invalid path '/../app': relative name"),
    ],
)
def test_what_is_no_connect_string(text, problem):
    with pytest.raises(InvalidConnectStringError, match=problem) as caught:
        parse_connect_string(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", [b"h:1", None, ["h"]])
def test_a_connect_string_is_text(text):
    with pytest.raises(InvalidTypeError, match="connect string"):
        parse_connect_string(text)


@pytest.mark.parametrize("text", ["h:2181", "h1:1,[::1]:2/app"])
def test_endpoints_are_written_as_they_are_read(text):
    parsed = parse_connect_string(text)
    assert ",".join(map(str, parsed.endpoints)) + parsed.chroot == text


@given(st.text("h:,/[]1. ", max_size=10))
def test_any_text_is_a_connect_string_or_not(text):
    try:
        parsed = parse_connect_string(text)
    except InvalidConnectStringError:
        return
    assert parsed.endpoints
    assert all(0 < endpoint.port < 65536 and endpoint.host for endpoint in parsed.endpoints)
    assert parsed.chroot == "" or validate_path(parsed.chroot) != "/"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zk1:2181/a,zk2:2181/a", "behind the last server"),
        ("host:port", "port is not a number"),
        ("zookeeper://zk1:2181", "without a scheme"),
    ],
)
def test_common_mistakes_in_connect_strings_are_named(text: str, says: str) -> None:
    with pytest.raises(InvalidConnectStringError, match=says):
        parse_connect_string(text)
