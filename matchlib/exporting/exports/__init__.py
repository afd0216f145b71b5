"""Forms of files that students are written in."""
