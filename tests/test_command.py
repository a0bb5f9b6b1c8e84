"""The command line: wrong flags end in one line and exit code 2, before anything is read or written."""

import errno
import os
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from cusa_jax import command
from cusa_jax.config import default_config, flat
from cusa_jax.errors import Diverged, InputError

# ml_collections loads config files in a way that importlib means to remove
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
CONFIG = "--config=configs/flickr.py"


@pytest.fixture(scope="module", autouse=True)
def _config_flag():
    config_flags.DEFINE_config_file("config", None, "", lock_config=True)
    yield
    for name in [name for name in flags.FLAGS if name.split(".")[0] == "config"]:
        delattr(flags.FLAGS, name)


def parse(*arguments):
    flags.FLAGS.unparse_flags()
    argv = ["train.py", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
        command._parse(argv)
    return flags.FLAGS["config"].value


def test_overrides_reach_the_configuration():
    config = parse(CONFIG + ":model=toy,loss=usa", "--config.loss.csa.weight=0.25", "--config.seed=3")
    loss = config.loss
    assert (config.model.name, loss.csa.weight, loss.usa.weight, config.seed) == ("toy", 0.25, 0.5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing: name a file"),
        (["--config=configs/no.py"], "configs/no.py"),
        ([CONFIG, "--config.loss.csa.wieght=1"], "no key 'loss.csa.wieght' (did you mean 'loss.csa.weight'?)"),
        ([CONFIG, "--config.loss=1"], "--config.loss is a group of keys"),
        ([CONFIG, "--config.batch_size=many"], "batch_size"),
        ([CONFIG + ":model=toi"], "model='toi' is none of"),
        ([CONFIG, "extra"], "unexpected argument 'extra'"),
        ([CONFIG, "--wrokdir=x"], "wrokdir"),
    ],
)  # fmt: skip
def test_wrong_flags_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(InputError("no photos"), 2), (Diverged("step 3"), 1)])
def test_our_errors_become_one_line_and_an_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as exit_, command.errors_in_one_line():
        raise error
    assert (exit_.value.code, capsys.readouterr().err) == (code, f"error: {error}\n")


HOSTILE = "a\x1b[2J\r\nb\u202e\ud800"
SHOWN = r"a\x1b[2J\r\nb\u202e\ud800"


@pytest.mark.parametrize("kind", [InputError, Diverged])
def test_errors_are_shown_on_one_line(kind, capsys):
    with pytest.raises(SystemExit), command.errors_in_one_line():
        raise kind(HOSTILE)
    assert capsys.readouterr().err == f"error: {SHOWN}\n"


def test_a_full_disk_is_no_bug(capsys):
    with pytest.raises(SystemExit) as exit_, command.errors_in_one_line():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/\x1b")
    told = r"error: cannot write out/\x1b (No space left on device); the same command continues when it can"
    assert (exit_.value.code, capsys.readouterr().err) == (1, told + "\n")


def script(body: str, *arguments: str) -> subprocess.CompletedProcess:
    """A script with a flag --out, as the project's own are."""
    program = (
        "from absl import flags, logging\nfrom cusa_jax.command import script\n"
        "OUT = flags.DEFINE_list('out', [], '')\n"
        f"def main(argv):\n    {body}\nscript(main)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/home/of/mine"},
    )


def test_what_is_logged_and_printed_is_one_line():
    done = script(f"logging.warning('skipped: %s', {HOSTILE!r}); logging.exception('x'); print('\\udcff')")
    first, second = done.stderr.splitlines()
    assert first.endswith(f"] skipped: {SHOWN}")
    assert second.endswith("] x")
    assert (done.returncode, done.stdout) == (0, "\\udcff\n")


def test_home_is_expanded_in_every_argument():
    done = script("print(OUT.value, argv[1:])", "--out=~/a,b~/c,d=~/e,~", "~/x", "about ~/y", "z~")
    assert done.stdout == "['/home/of/mine/a', 'b~/c', 'd=/home/of/mine/e', '/home/of/mine'] " + (
        "['/home/of/mine/x', 'about ~/y', 'z~']\n"
    )


def test_home_is_expanded_in_the_configuration(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    config = parse(CONFIG)
    config.data.path, config.teacher.bank, config.init_from = "~/data", "~", "here/~"
    command._expand_config(config)
    assert (config.data.path, config.teacher.bank) == ("/home/of/mine/data", "/home/of/mine")
    assert config.init_from == "here/~"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), command.errors_in_one_line():
        _ = 1 / 0


def test_help_lists_every_key_by_its_group():
    paragraphs = command._keys_by_group().split("\n\n")
    heads = [paragraph.partition(":\n")[0] for paragraph in paragraphs]
    assert {"the run", "model", "loss", "loss.csa.tau", "teacher"} <= set(heads)
    said = [line.split("=")[0].strip() for paragraph in paragraphs for line in paragraph.splitlines()[1:]]
    assert sorted(said) == sorted(f"--config.{key}" for key in flat(default_config()))


def test_a_list_that_is_given_again_goes_on():
    command.define_list("some_names", ["default"], "For this test.")
    try:
        for arguments, expected in (
            ([], ["default"]),
            (["--some_names=a,b", "--some_names=c"], ["a", "b", "c"]),
        ):
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["test", *arguments])
            assert flags.FLAGS.some_names == expected
    finally:
        delattr(flags.FLAGS, "some_names")
