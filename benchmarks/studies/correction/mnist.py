"""The table of digits.py on MNIST, 28x28: the first 12,500 images of its training set, a fifth of them held out.

python -m benchmarks.studies.correction.mnist --mnist MNIST.npz [--seeds 0 1] [--methods uid correct] [--kinds ...]
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies.correction.common import table, table_options
from benchmarks.studies.correction.methods import METHODS, ONLY
from benchmarks.studies.correction.tasks import mnist


def main() -> None:
    parser = table_options(__doc__, range(2), ["uid", "correct"], list(METHODS))
    parser.add_argument("--mnist", type=Path, required=True)
    given = parser.parse_args()
    table(mnist(given.mnist), given.name or f"correction-mnist-{given.family}", given, METHODS, ONLY)


if __name__ == "__main__":
    main()
