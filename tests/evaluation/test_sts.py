"""STS by SentEval's protocol: the reference's recorded correlations, scipy, and the traps of the files."""

import golden
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from cusa_jax.errors import InputError
from cusa_jax.evaluation.sts import SUBSETS, TASKS, Pairs, cosine, read_task, suite_result, task_result

NAMES = {task: task.upper() for task in SUBSETS} | {"stsb": "STSBenchmark", "sickr": "SICKRelatedness"}


def recorded(task):
    """The subsets that the reference saw, and the similarity of its pairs."""
    files = golden.numbers("evaluation")["sts"]["files"]
    embeddings = golden.arrays("evaluation")["sts/embeddings"]
    subsets, similarity, identical = {}, {}, False
    for file, rows in files.items():
        name, subset = file.split("/")
        if name == NAMES[task]:
            kept = [row for row in rows if row[0] is not None]
            first, second = ([row[side] for row in kept] for side in (0, 1))
            subset = "test" if subset.startswith("test") else subset
            subsets[subset] = Pairs([], [], np.array([row[2] for row in kept]), len(rows) - len(kept))
            similarity[subset] = cosine(embeddings[first], embeddings[second])
            identical |= any(a == b for a, b in zip(first, second, strict=True))
    return subsets, similarity, identical


@pytest.mark.parametrize("task", TASKS)
def test_equals_the_reference(task):
    """On its sets of a dozen pairs; where sentences are identical, its float32 ranks them by rounding errors."""
    subsets, similarity, identical = recorded(task)
    ours = task_result(similarity, subsets).values()
    theirs = golden.numbers("evaluation")["sts"]["results"][NAMES[task]]
    if task in SUBSETS:
        expected = {"": "all", "mean": "mean", "wmean": "wmean"}
        pairs = [(ours[k], theirs["all"]["spearman"][v]) for k, v in expected.items()]
        exact = [(ours[subset], theirs[subset]["spearman"]) for subset in subsets]
        pearsons = [
            (ours[f"pearson{k and '_' + k}"], theirs["all"]["pearson"][v]) for k, v in expected.items()
        ]
    else:
        pairs, exact = [(ours[""], theirs["test"]["spearman"])], []
        pearsons = [(ours["pearson"], theirs["test"]["pearson"])]
    for mine, reference in (*pairs, *exact):
        assert mine / 100 == pytest.approx(reference, abs=0.03 if identical else 1e-3)
    for mine, reference in pearsons:
        assert mine / 100 == pytest.approx(reference, abs=1e-6)


def test_equals_scipy():
    subsets, similarity, _ = recorded("sts13")
    ours = task_result(similarity, subsets).values()
    gold = np.concatenate([pairs.gold for pairs in subsets.values()])
    together = np.concatenate(list(similarity.values()))
    parts = [spearmanr(similarity[name], pairs.gold).statistic for name, pairs in subsets.items()]
    sizes = [len(pairs.gold) for pairs in subsets.values()]
    assert ours[""] == pytest.approx(100 * spearmanr(together, gold).statistic, rel=1e-12)
    assert ours["pearson"] == pytest.approx(100 * pearsonr(together, gold).statistic, rel=1e-7)
    assert ours["mean"] == pytest.approx(100 * np.mean(parts), rel=1e-12)
    assert ours["wmean"] == pytest.approx(100 * np.average(parts, weights=sizes), rel=1e-12)


def test_average_of_the_seven_tasks():
    tasks = {task: task_result(*recorded(task)[1::-1]) for task in TASKS}
    suite = suite_result(tasks).values()
    assert suite["avg"] == pytest.approx(np.mean([tasks[task].values()[""] for task in TASKS]))
    assert suite["sts13_wmean"] == tasks["sts13"].values()["wmean"]
    assert "avg" not in suite_result({"stsb": tasks["stsb"]}).values()


def test_cosine_of_broken_features_is_zero_and_of_equal_ones_exactly_one():
    x = np.random.default_rng(0).standard_normal((100, 7)).astype(np.float32)
    assert (cosine(x, 3 * x) == 1).all()
    broken = np.array([[0.0, 0], [np.nan, np.nan], [1, 0]])
    assert cosine(broken, np.ones((3, 2))).tolist() == [0, 0, np.float32(0.5**0.5)]


@pytest.fixture
def folder(tmp_path):
    """STS13 and the single files, with what real ones hold: blank golds, quotes, CRLF, a byte-order mark, Unicode's
    other line ends, further columns, no final line feed."""
    root = tmp_path / "downstream"
    sts13, stsb, sick = root / "STS" / "STS13-en-test", root / "STS" / "STSBenchmark", root / "SICK"
    for path in (sts13, stsb, sick):
        path.mkdir(parents=True)
    for subset in SUBSETS["sts13"]:
        (sts13 / f"STS.input.{subset}.txt").write_text("a  b\tc\nd\te\nf\tg\n")
        (sts13 / f"STS.gs.{subset}.txt").write_text("1\n\n2.5\n")
    (sts13 / "STS.input.FNWN.txt").write_bytes('\ufeffso "x\ty\u2028z\tsource\r\np\tq\u0085\r\n'.encode())
    (sts13 / "STS.gs.FNWN.txt").write_bytes(b"0\r\n5")
    row = "main\tfile\tyear\t0001"
    (stsb / "sts-test.csv").write_text(f'{row}\t5.000\tA "quoted\tB\n{row}\t0\tC\tD"\tlicence\tmore\n')
    (sick / "SICK_test_annotated.txt").write_text(
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n6\tA\tB\t3.3\tNEUTRAL\n7\tC\tD\t4\tX\n"
    )
    return tmp_path


def test_reads_what_real_files_hold(folder):
    task = read_task(folder, "sts13")
    assert task["FNWN"].first == ['so "x', "p"]
    assert task["FNWN"].second == ["y z", "q"]
    assert task["FNWN"].gold.tolist() == [0, 5]
    assert (task["OnWN"].first, task["OnWN"].gold.tolist(), task["OnWN"].dropped) == (
        ["a b", "f"],
        [1, 2.5],
        1,
    )
    stsb = read_task(folder / "downstream", "stsb")["test"]
    assert (stsb.first, stsb.second, stsb.gold.tolist()) == (['A "quoted', "C"], ["B", 'D"'], [5, 0])
    sick = read_task(folder, "sickr")["test"]
    assert (sick.first, sick.second, sick.gold.tolist()) == (["A", "C"], ["B", "D"], [3.3, 4])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("STS.gs.OnWN.txt", "1\n2\n", "3 pairs, but STS.gs.OnWN.txt has 2 scores"),
        ("STS.gs.OnWN.txt", "1\nx\n2\n", "line 2: 'x' is not a gold score"),
        ("STS.gs.OnWN.txt", "1\nnan\n2\n", "line 2: 'nan' is not a gold score"),
        ("STS.input.OnWN.txt", "a\tb\nc\td\ne f\n", "line 3 has no tab"),
        ("STS.input.OnWN.txt", None, "no such file"),
    ],
)
def test_bad_files_are_named(folder, file, content, message):
    path = folder / "downstream" / "STS" / "STS13-en-test" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(folder, "sts13")
