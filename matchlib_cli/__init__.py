"""The command line of matchlib."""
