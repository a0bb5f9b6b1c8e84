"""Is a gain the teachers' knowledge? Each loss with its teachers, with shuffled ones and with ones that know nothing.

A gain that the controls share is label smoothing. All cells see the same data, the same settings and the same seeds;
differences are paired twice, by seed and by test image (an image goes with its captions).

`cells` says what is trained, `runs` trains it, `figures` measures a run, `contrasts` compares, `table` and
`report.controls` show it; `neighbours` counts false negatives among the nearest.
"""
