"""One module a command; each has a function ``run`` whose docstring is the command's help."""
