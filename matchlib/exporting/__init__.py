"""Students outside of this library: files that run where matchlib is not installed, each compared with the student before it stays."""
