"""The command line: wrong flags end in one line and exit code 2, before anything is read or written."""

import pytest
from absl import flags
from ml_collections import config_flags

from cusa_jax import command
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


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), command.errors_in_one_line():
        _ = 1 / 0
