"""The page of a run, and one that compares runs: HTML files that need nothing besides themselves."""
