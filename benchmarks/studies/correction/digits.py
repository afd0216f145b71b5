"""Do real data correct a wrong teacher? Weak teachers of five kinds and a good one, students of equal steps.

    python -m benchmarks.studies.correction.digits [--family flow] [--seeds 0 1 2 3 4] [--methods uid correct default] [--kinds ...]

Excess is the Frechet distance over that of held-out data, all against the training split at 360 samples, ten draws.
"""

from __future__ import annotations

from benchmarks.studies.correction.common import table, table_options
from benchmarks.studies.correction.methods import METHODS, ONLY
from benchmarks.studies.correction.tasks import DIGITS


def main() -> None:
    given = table_options(__doc__, range(5), ["uid", "correct", "default"], list(METHODS)).parse_args()
    table(DIGITS, given.name or f"correction-digits-{given.family}", given, METHODS, ONLY)


if __name__ == "__main__":
    main()
