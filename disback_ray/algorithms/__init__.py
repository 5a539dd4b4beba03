"""The paper: both algorithms and Eqs. (5)–(8), torch only. Shapes: B samples of one shape [...], usually [C, H, W] or [2]."""
