"""What a disk says is recognised, whatever a library makes of it."""

import errno
import os

import pytest

from cusa_jax.files import write_refusal

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")


def raised(
    error: BaseException, cause: BaseException | None = None, *, explicit: bool = True
) -> BaseException:
    try:
        try:
            if cause:
                raise cause
        except BaseException as inner:
            if explicit:
                raise error from inner
            raise error  # noqa: B904
        raise error
    except BaseException as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        ValueError("RESOURCE_EXHAUSTED: Failed writing: \"x\" [OS error 28: ENOSPC No space left on device]"),
        raised(RuntimeError("save failed"), FULL),
        raised(RuntimeError("save failed"), FULL, explicit=False),
        ExceptionGroup("several", [KeyError("a"), ExceptionGroup("inner", [FULL])]),
    ],
)  # fmt: skip
def test_a_full_disk_is_recognised(error):
    assert write_refusal(error) == "No space left on device"


def test_other_refusals_of_a_disk_are_told():
    for number in (errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        assert write_refusal(OSError(number, os.strerror(number))) == os.strerror(number)


def test_bugs_are_none():
    itself = ValueError("x")
    itself.__context__ = RuntimeError("y")
    itself.__context__.__context__ = itself
    for error in (itself, FileNotFoundError(errno.ENOENT, "No such file or directory"), ZeroDivisionError()):
        assert write_refusal(error) == ""
