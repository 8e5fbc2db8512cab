from everlatch.session.own import Own


def test_who_asked_is_told_the_result_or_the_error():
    told = []
    own = Own(told.append)
    error = OSError("refused")
    own.set_result(7)
    own.set_exception(error)
    assert told == [7, error]


def test_it_is_never_cancelled():
    own = Own(print)
    assert not own.done()
    own.set_result(None)
    assert not own.done()
