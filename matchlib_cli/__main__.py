"""Lets ``python -m matchlib_cli`` be ``matchlib``."""

from matchlib_cli.app import main

if __name__ == "__main__":
    main()
