"""Evaluates a model, or embeddings of any model, by the official protocols of the paper's tables.

python scripts/evaluate.py --checkpoint=RUN_OR_CLIP --suite=flickr30k,coco5k,eccv,sts --data=ROOT
python scripts/evaluate.py --embeddings=FILE.npz --suite=coco5k,eccv
python scripts/evaluate.py --compare=A,B --suite=coco5k --data=ROOT
python scripts/evaluate.py --checkpoint=SGR_RUN,SAF_RUN --ensemble --suite=flickr30k --data=ROOT
python scripts/evaluate.py --checkpoint=RUN --suite=mine=FOLDER     # one's own captions, or images by class

Several checkpoints without --ensemble are evaluated one after the other, each into its own folder of --out. A suite
whose data are missing or damaged is skipped, with a line that says what; where every suite is, the exit code
is 2. docs/evaluate.md says how data lie.
"""

from pathlib import Path
from typing import Any

from absl import flags, logging

from cusa_jax.command import define_list, script
from cusa_jax.errors import InputError, one_line
from cusa_jax.evaluation.ensemble import Ensemble
from cusa_jax.evaluation.open_source import open_source
from cusa_jax.evaluation.own import own_suite
from cusa_jax.evaluation.record import Evaluated, comparison, comparison_table, record, result_folders, table
from cusa_jax.evaluation.suite import Evaluation, Folders
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.jsonfile import write_json
from cusa_jax.report.page import write_evaluation
from cusa_jax.settings import nearest
from cusa_jax.weights.hub import DTYPES
from cusa_jax.workdir import REPORT, RESULTS

CHECKPOINT = define_list(
    "checkpoint",
    [],
    "Folder of a run, of a Hugging Face CLIP or of a sentence encoder; several, one by one or with --ensemble.",
)
ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "Average the score matrices of the checkpoints, as SGRAF does."
)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "tokenizer.json or vocabulary of words, for a checkpoint that brings none."
)
EMBEDDINGS = flags.DEFINE_string(
    "embeddings", "", "Arrays instead of a model: an .npz (keys: evaluation/sources.py)."
)
COMPARE = define_list("compare", [], "A,B: two of the above, by paired bootstrap, B minus A.")
SUITE = define_list("suite", list(SUITES), f"Any of {', '.join(SUITES)}, and NAME=PATH for one's own.")
DATA = define_list("data", [], "ROOT that holds the datasets, and NAME=PATH for those that lie elsewhere.")
OUT = flags.DEFINE_string(
    "out", "evaluation", "Folder for results.json and report.html, or a folder of them for each model."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images or texts encoded at a time.", lower_bound=1)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", list(DTYPES), "Of the model's computation; 'run' is what it was trained in."
)
AS_SHOWN = flags.DEFINE_bool(
    "as_shown",
    None,
    "See the pictures of NAME=PATH as viewers show them: upright, on white. By default as the model's training did, "
    "and as shown where that is not known; the other suites' are always read as the paper's code does.",
)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that decode images; 0 uses threads.", lower_bound=0)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax tells what it restores
    if argv[1:]:
        raise InputError(f"unexpected argument '{argv[1]}': options start with --")
    if ENSEMBLE.value and (len(CHECKPOINT.value) < 2 or EMBEDDINGS.value or COMPARE.value):
        raise InputError("--ensemble averages the scores of several models: name them, --checkpoint=A,B")
    named = [*CHECKPOINT.value, *filter(None, [EMBEDDINGS.value])] or COMPARE.value
    sources = [",".join(named)] if ENSEMBLE.value else named
    if not sources or (CHECKPOINT.value and EMBEDDINGS.value) or len(COMPARE.value) not in (0, 2):
        raise InputError(
            "name one of --checkpoint=PATH, --embeddings=FILE.npz and --compare=A,B, or several checkpoints"
        )
    suites, elsewhere = _suites()
    if AS_SHOWN.value is not None and not elsewhere:
        raise InputError(
            "--as_shown is for pictures of your own, --suite=NAME=PATH; the suites have their way"
        )
    groups = [sources] if COMPARE.value else [[path] for path in sources]
    outs = result_folders(Path(OUT.value), groups)
    empty = []
    for group, out in zip(groups, outs, strict=True):
        evaluated = [_evaluate(path, suites, elsewhere) for path in group]
        results = [record(one) for one in evaluated]
        print("\n\n".join(map(table, results)))
        if any(one.results for one in evaluated):
            _write(out, evaluated, results)
        empty += [one.model for one in evaluated if not one.results]
    if empty:
        raise InputError(f"{empty[0]}: nothing was evaluated, as every suite was skipped (why: above)")


def _suites() -> tuple[list[str], dict[str, str]]:
    """(names of the suites to run, where the data of one's own lie); those are put into the table."""
    names, elsewhere = [], {}
    for entry in SUITE.value:
        name, own, path = entry.partition("=")
        if own:
            SUITES[name] = own_suite(name, path)
            elsewhere[name] = path
        elif name not in SUITES:
            raise InputError(f"--suite: '{name}' is none of {', '.join(SUITES)}{nearest(name, SUITES)}")
        names.append(name)
    return names, elsewhere


def _write(out: Path, evaluated: list[Evaluated], results: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    compared = comparison(*evaluated) if len(evaluated) == 2 else {}
    if compared:
        print("\n" + comparison_table((evaluated[0].model, evaluated[1].model), compared))
    if (out / RESULTS).exists():
        print(f"\n{out / RESULTS}: the same model's, of an earlier evaluation, is replaced")
    write_json(out / RESULTS, {"models": results, **compared} if compared else results[0])
    write_evaluation(out / REPORT, results, compared)
    print(f"\nresults: {out / RESULTS}, report: {out / REPORT}")


def _evaluate(path: str, suites: list[str], own: dict[str, str]) -> Evaluated:
    parts = [
        open_source(
            part,
            batch_size=BATCH_SIZE.value,
            workers=WORKERS.value,
            tokenizer=TOKENIZER.value,
            dtype=DTYPE.value,
            shown=AS_SHOWN.value,
        )
        for part in (path.split(",") if ENSEMBLE.value else [path])
    ]
    source = Ensemble(parts) if ENSEMBLE.value else parts[0]
    roots = [entry for entry in DATA.value if "=" not in entry]
    if len(roots) > 1:
        raise InputError(
            f"--data: {roots[0]} and {roots[1]}: only one folder can be the root; name others NAME=PATH"
        )
    elsewhere = own | dict(entry.split("=", 1) for entry in DATA.value if "=" in entry)
    evaluation = Evaluation(source, Folders(SUITES.values(), roots[0] if roots else "", elsewhere))
    results, skipped = {}, {}
    for suite in suites:
        try:
            results[suite] = SUITES[suite].run(evaluation)
        except InputError as error:
            skipped[suite] = one_line(error)
    dtype = DTYPE.value if source.needs_data else None
    return Evaluated(path, results, skipped, source.architecture, dtype)


if __name__ == "__main__":
    script(main)
