"""Teachers of other packages, a file for each; what a file needs is imported when it is used."""
