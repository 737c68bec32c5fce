"""The skipped tests of a session in a few lines, by what they lack."""

import collections
import re

LIBRARY = re.compile(r"could not import '(\w+)|(\w+).*not installed")


def lines(reports):
    """Return the lines of a summary: how many tests each missing library would judge, and every other reason."""
    libraries, others = collections.Counter(), collections.Counter()
    for report in reports:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if found := LIBRARY.match(reason):
            libraries[(found[1] or found[2]).lower()] += 1
        else:
            others[reason] += 1
    missing = ", ".join(f"{name} {count}" for name, count in libraries.most_common())
    return [
        *([f"skipped, as these are not installed: {missing}"] if missing else []),
        *(f"skipped: {reason} ({count})" for reason, count in others.most_common()),
    ]
