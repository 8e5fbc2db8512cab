"""Operations whose path is the server's own: the chroot is kept out of their watches."""

import pytest

from everlatch.types import EventType, WatchEvent
from session.driver import GET, connected

CONFIG = "/zookeeper/config"
GET_CONFIG = GET._replace(name="get_config", unrooted=True)


def one(event):
    """A callback."""


@pytest.mark.parametrize("chroot", ["", "/app"])
def test_a_watch_without_the_chroot_fires_with_the_servers_path(chroot):
    driver = connected(chroot=chroot)
    driver.call(GET_CONFIG, CONFIG, watch=one)
    driver.answer()
    driver.event(EventType.DATA_CHANGED, chroot + CONFIG if chroot else "/app" + CONFIG)
    assert driver.fired == []
    driver.event(EventType.DATA_CHANGED, CONFIG, zxid=7)
    assert driver.fired == [([one], WatchEvent(EventType.DATA_CHANGED, CONFIG, 7))]


def test_it_is_armed_again_without_the_chroot():
    driver = connected(chroot="/app")
    driver.call(GET_CONFIG, CONFIG, watch=one)
    driver.call(GET, "/a", watch=one)
    driver.answer(2)
    driver.lose()
    driver.connect()
    assert driver.watches_in(driver.sent[-1]).data == [CONFIG, "/app/a"]
