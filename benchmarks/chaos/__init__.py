"""Chaos: what goes wrong in a week, done on purpose to small runs; does each end with the weights of the one that nothing happened to?

`python -m benchmarks.chaos --json FILE`; `--short` for three minutes of it, `--only PART,PART` for some of it. See docs/reliability.md.
"""
