"""DIGEST-MD5: the example of RFC 2831, both sides against each other, and hostile tokens."""

import ast
import contextlib
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlatch.wire import digest_md5
from everlatch.wire.digest_md5 import URI, DigestMd5Error, challenge, digest, directives, is_proof, respond, verify

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def test_the_example_of_the_rfc():
    values = ("chris", "secret", "elwood.innosoft.com", "OA6MG9tEQGm2hh", "OA6MHXh6VqTrRk")
    assert digest(*values, uri="imap/elwood.innosoft.com") == "d388dad90d4bbd760a152321f2143af7"
    assert digest(*values, uri="imap/elwood.innosoft.com", of_server=True) == "ea40f60335c427b5527b84dbabcdfffd"


def test_the_challenge_is_that_of_a_real_server():
    asked = challenge("abc/+=")
    assert asked == b'realm="zk-sasl-md5",nonce="abc/+=",charset=utf-8,algorithm=md5-sess'
    assert directives(asked) == {
        "realm": "zk-sasl-md5",
        "nonce": "abc/+=",
        "charset": "utf-8",
        "algorithm": "md5-sess",
    }


@given(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_both_sides_agree(username, password):
    answer, expected = respond(challenge("n0nce"), username, password, "cn")
    found = verify(answer, "n0nce", {username: password})
    assert found is not None
    user, proof = found
    assert user == username
    assert is_proof(proof, expected)
    assert verify(answer, "n0nce", {username: password + "x"}) is None
    assert verify(answer, "other", {username: password}) is None
    assert not is_proof(proof.replace(b"=", b"=0"), expected)
    assert not is_proof(b"x=y", expected)
    if password and password not in "charset=utf-8,username,realm,nonce,cnonce,zk-sasl-md5,zookeeper/" + username:
        assert password.encode() not in answer or len(password) < 4


@pytest.mark.parametrize(("text", "expected"), [("Jürgen", b"J\xfcrgen"), ("漢字", "漢字".encode())])
def test_characters_are_hashed_as_java_does(text, expected):
    assert digest_md5._hashed(text) == expected


def test_what_is_asked_for_in_someone_elses_name():
    values = ("bob", "pw", "zk-sasl-md5", "n", "c")
    token = f'username="bob",realm="zk-sasl-md5",nonce="n",cnonce="c",nc=00000001,digest-uri="{URI}",authzid="alice",'
    token += f"response={digest(*values, authzid='alice')}"
    assert verify(token.encode(), "n", {"bob": "pw"})[0] == "bob", "as on real servers"


@pytest.mark.parametrize(
    ("changed", "to"),
    [
        ("zookeeper/zk-sasl-md5", "zookeeper/else"),
        ('realm="zk-sasl-md5"', 'realm="else"'),
        ("qop=auth", "qop=auth-int"),
        ('username="bob"', 'username="eve"'),
        ("response=", "response=0"),
        ('cnonce="cn"', 'cnonce="cm"'),
        ('cnonce="cn",', ""),
        ('realm="zk-sasl-md5",', ""),
        ('nonce="n",', ""),
        ("charset=utf-8", "charset=latin-1"),
    ],
)
def test_a_response_that_does_not_fit_is_refused(changed, to):
    answer, _ = respond(challenge("n"), "bob", "pw", "cn")
    assert changed.encode() in answer
    assert verify(answer.replace(changed.encode(), to.encode()), "n", {"bob": "pw"}) is None


@pytest.mark.parametrize(
    ("changed", "to"),
    [
        (b",nc=00000001", b""),
        (b"nc=00000001", b"nc=00000002"),
        (b",qop=auth", b""),
        (b",maxbuf=65536", b""),
        (b"charset=utf-8,", b""),
    ],
)
def test_what_may_be_left_out_or_written_otherwise(changed, to):
    answer, _ = respond(challenge("n"), "bob", "pw", "cn")
    assert changed in answer
    assert verify(answer.replace(changed, to), "n", {"bob": "pw"}) is not None


def test_of_several_realms_the_first_is_taken():
    assert directives(b'realm="one",realm="two"') == {"realm": "one"}


def test_what_is_quoted():
    assert directives(rb' a="x\"\\y , z" ,, b=c, ') == {"a": 'x"\\y , z', "b": "c"}
    answer, _ = respond(challenge("n"), 'b"o\\b', "pw", "cn")
    assert verify(answer, "n", {'b"o\\b': "pw"}) is not None


def test_a_token_in_latin_1():
    assert directives(b'username="J\xfcrgen"') == {"username": "Jürgen"}


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b'realm="r",algorithm=md5-sess',
        b'nonce="",algorithm=md5-sess',
        b'nonce="n"',
        b'nonce="n",algorithm=sha-256',
        b'nonce="n",algorithm=md5-sess,qop="auth-int,auth-conf"',
        b'nonce="n",nonce="m",algorithm=md5-sess',
        b'nonce="n',
        b"nonce",
        b"=n",
        b"a=b c=d",
        b"\x00",
        b"a=" + b"x" * 5000,
    ],
)
def test_a_challenge_that_is_none(token):
    with pytest.raises(DigestMd5Error):
        respond(token, "bob", "pw", "cn")


@given(st.binary(max_size=300) | st.text('ab=,"\\ \t', max_size=300).map(str.encode))
def test_whatever_comes(token):
    for use in (
        lambda: directives(token),
        lambda: respond(token, "b", "p", "c"),
        lambda: verify(token, "n", {"b": "p"}),
    ):
        with contextlib.suppress(DigestMd5Error):
            use()


def test_the_guardian_can_load_it_by_itself():
    tree = ast.parse(pathlib.Path(digest_md5.__file__).read_text("utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.startswith("everlatch")]
