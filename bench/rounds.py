"""Two or more programs beside each other: they take turns, and what counts is the ratio of each round.

These machines are noisy and shared, so a program measured in a better minute would win. Every side is a command that
prints one JSON line; each round runs all of them, in the opposite order every other time.
"""

import json
import statistics
import subprocess
import sys


def measured(name, command, may_fail=False):
    """The JSON line that a side prints last; with `may_fail` None where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if may_fail else None, text=True, check=False)
    if done.returncode != 0 and may_fail:
        return None
    if done.returncode != 0:
        sys.exit(f"{name} ended with {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(sides, count, shown, completed=lambda result: result):
    """`count` rounds of all sides, a dictionary of results each; `shown` says in words what a result is."""
    if count < 1:
        sys.exit("--rounds must be at least 1")
    rounds = []
    for number in range(count):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        rounds.append({name: completed(measured(name, sides[name])) for name in order})
        line = ", ".join(f"{name} {shown(rounds[-1][name])}" for name in sides)
        print(f"round {number + 1} of {count}: {line}", file=sys.stderr)
    return rounds


def median(rounds, side, field):
    """The median of a side's figure."""
    return statistics.median(r[side][field] for r in rounds)


def ratio(rounds, field, ours, theirs):
    """Ours over theirs, round by round."""
    values = sorted(r[ours][field] / r[theirs][field] for r in rounds)
    return {"median": statistics.median(values), "least": values[0], "most": values[-1]}


def in_words(ratio):
    """A ratio with its spread."""
    return f"{ratio['median']:.2f}x ({ratio['least']:.2f} to {ratio['most']:.2f})"
