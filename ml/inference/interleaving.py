"""Two rankings of the same candidates in one list, each place picked by one of two teams.

Team draft: in each round a coin says which team picks first; each then picks its best candidate that is not taken. Both
teams stand at every place equally often, so that what people do with their picks compares the rankings on the same
requests, without the luck of who met which variant.

Source: Radlinski, Kurup and Joachims, "How Does Clickthrough Data Reflect Retrieval Quality?" (CIKM 2008).
"""

import hashlib
from random import Random

import numpy as np

INTERLEAVED = "interleaved/"
"""What precedes the name of a place's team in the column ``arm`` of exposures."""

TEAMS = ("control", "challenger")
"""Names of the champion's and the challenger's picks."""


def seed_of(*parts: bytes) -> int:
    """Return a seed of 63 bits for a request: equal parts give equal coins."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(len(part).to_bytes(8) + part)
    return int.from_bytes(found.digest()) >> 1


def team_draft(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Let two teams pick in turn.

    Args:
        first: Places of the n candidates, best first, as team 0 ranks them, int64 [n].
        second: As team 1 ranks them, int64 [n].
        seed: Of the coins.

    Returns:
        The places in the order in which they were picked, int64 [n], and the team that picked each, int64 [n].
    """
    count, coins = len(first), Random(seed)
    rankings, reached = (first.tolist(), second.tolist()), [0, 0]
    taken, picked, teams = bytearray(count), [], []
    while len(picked) < count:
        begins = coins.getrandbits(1)
        for team in (begins, 1 - begins)[: count - len(picked)]:
            ranking = rankings[team]
            while taken[ranking[reached[team]]]:
                reached[team] += 1
            place = ranking[reached[team]]
            taken[place] = 1
            picked.append(place)
            teams.append(team)
    return np.array(picked, dtype=np.int64), np.array(teams, dtype=np.int64)
