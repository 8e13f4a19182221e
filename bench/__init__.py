"""Side-by-side measurements: what counts is a ratio within one run, never a number of this machine."""
