"""`everlatch.acls`: the ids of scheme digest."""

import pytest

from everlatch import ACL, InvalidArgumentError, InvalidTypeError, Permission, digest_acl, digest_id


def test_the_id_that_zookeeper_makes():
    """`DigestAuthenticationProvider.generateDigest("super:test")`, from its documentation."""
    assert digest_id("super", "test") == "super:D/InIHSb7yEEbrWz8b9l71RjZJU="


def test_the_entry():
    assert digest_acl("super", "test", Permission.READ) == ACL(1, "digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
    assert digest_acl("super", "test").permissions == 31


@pytest.mark.parametrize(
    ("username", "password", "error"),
    [
        ("", "secret", InvalidArgumentError),
        ("a:b", "secret", InvalidArgumentError),
        ("bob", "secret\ud800", InvalidArgumentError),
        (b"bob", "secret", InvalidTypeError),
        ("bob", b"secret", InvalidTypeError),
    ],
)
def test_what_can_not_be(username, password, error):
    with pytest.raises(error) as raised:
        digest_id(username, password)
    assert "secret" not in str(raised.value)


def test_a_password_behind_the_name_is_not_shown():
    """An identity in the place of a name: `digest_id("bob:secret", "")`."""
    with pytest.raises(InvalidArgumentError) as raised:
        digest_id("bob:s3cret", "")
    assert "s3cret" not in str(raised.value)
