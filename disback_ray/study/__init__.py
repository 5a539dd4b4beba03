"""A pairwise preference study, as in the paper's Sec. 5.5: `disback-ray study RUN_A RUN_B`, and `--score` for what people answered."""
