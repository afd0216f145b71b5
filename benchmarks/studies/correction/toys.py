"""The table of digits.py in the plane, where the Wasserstein distance is exact: 8,000 training points, 2,000 held out.

python -m benchmarks.studies.correction.toys [--only moons eight-gaussians checkerboard] [--seeds 0 1 2] [--methods uid correct]
"""

from __future__ import annotations

from benchmarks.studies.correction.common import table, table_options
from benchmarks.studies.correction.methods import METHODS, ONLY
from benchmarks.studies.correction.tasks import TOYS


def main() -> None:
    parser = table_options(__doc__, range(3), ["uid", "correct"], list(METHODS))
    parser.add_argument("--only", nargs="+", default=list(TOYS), choices=list(TOYS))
    given = parser.parse_args()
    for name in given.only:
        table(TOYS[name], f"correction-{name}-{given.family}", given, METHODS, ONLY)


if __name__ == "__main__":
    main()
