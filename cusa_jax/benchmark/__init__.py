"""How fast the parts are and what memory they take, measured in one run, as ratios."""
