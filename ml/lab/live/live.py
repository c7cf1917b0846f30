"""Variants serve one surface of one world for some days; what their users do is a table."""

import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from ml.experiments.user_days import METRICS, USER_DAYS_SCHEMA
from ml.foundation.code import code_hash
from ml.foundation.documents import digest
from ml.foundation.ids import id63_array
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.inference.interleaving import INTERLEAVED, TEAMS
from ml.inference.snapshot import publish
from ml.lab.live.client import Client, Ranking, ServerError
from ml.lab.live.design import Design
from ml.lab.live.traffic import Requests, draw_requests, outcomes, slot_outcomes
from ml.lab.live.variants import Placement, Variant
from ml.lab.simulator.state import State
from ml.lab.simulator.write import world_of
from ml.lab.study.design import World as WorldSpec
from ml.surfaces.spec import Surface

Serve = Callable[[Settings, Path, Collection[Variant]], AbstractContextManager[str]]
"""Serves variants of the store at a path, with the features published in the home, and gives the server's base URL."""

Estimate = Literal["split", "paired", "interleaved"]
"""How two variants are compared.

``split``: each user's own variant, the outcomes drawn. ``paired``: both variants answer, expected outcomes count.
``interleaved``: both answer in one list, the outcome drawn of each place is its team's.
"""

FOLDER = "experiment"
"""Folder of a world's home that holds the experiment store."""

_CODE = (
    *(f"ml/lab/live/{name}.py" for name in ("variants", "client", "design", "live", "traffic")),
    "ml/lab/simulator",
    "ml/inference",
    "deploy/serving",
)
_PAIRED_STREAM, _INTERLEAVED_STREAM = 3, 5
_TEAMS = tuple(INTERLEAVED + team for team in TEAMS)
_FEATURES_S = 30.0


class LiveWorld:
    """A prepared world whose users an experiment serves.

    Args:
        settings: The world's home.
        spec: Which world it is.
        design: The experiment.
    """

    def __init__(self, settings: Settings, spec: WorldSpec, design: Design) -> None:
        assert settings.last_day is not None
        self.settings, self.spec, self.design = settings, spec, design
        self.root = settings.home / FOLDER
        self.days = design.live_days(settings.last_day)
        self.world = world_of(settings)

    @cached_property
    def states(self) -> dict[date, State]:
        """The world at the beginning of each live day; the days before are replayed."""
        found: dict[date, State] = {}
        state = self.world.start()
        for day in self.settings.days(self.settings.first_day, self.days[-1]):
            if day in self.days:
                found[day] = state
            if day < self.days[-1]:
                _, state = self.world.step(state)
        return found

    def placement(self, surface: Surface) -> Placement:
        """Return what the variants of a surface are trained on."""
        return Placement.of(self.settings, self.design, surface)

    def identity(self, placement: Placement) -> str:
        """Return the hash of everything that a surface's rows depend on."""
        return digest(
            {
                "world": self.spec.model_dump(mode="json", exclude_defaults=True),
                "design": self.design.model_dump(mode="json", exclude={"worlds", "surfaces", "description"}),
                "arms": placement.identity,
                "code": code_hash(_CODE),
            }
        )

    def run(
        self, placement: Placement, serve: Serve, tell: Callable[[str, int], None] = lambda what, n: None
    ) -> pa.Table:
        """Serve every live day of a surface and return its rows, see ``USER_DAYS_SCHEMA``.

        Args:
            placement: The surface's variants.
            serve: Starts the server.
            tell: Told what is under way and how many more requests were answered.

        Raises:
            ServerError: A request was refused, or answered by another model or with features of another day.
        """
        surface, identity = placement.surface, self.identity(placement)
        tell(f"{surface.name}: training", 0)
        variants = placement.place(self.root)
        together = placement.interleaved(variants)
        days: list[pa.Table] = []
        with tempfile.TemporaryDirectory(dir=self.root, prefix="serving-") as home:
            # The server counts the age of features back from the world's last day.
            served = self.settings.model_copy(
                update={"home": Path(home), "max_feature_age_days": max(self.design.days, 1)}
            )
            token = self.settings.serve_token
            with Lake(self.settings) as lake, serve(served, self.root, [*variants.values(), together]) as url:
                client = Client(url, token.get_secret_value() if token else None)
                for day in self.days:
                    tell(f"{surface.name} {day}", 0)
                    publish(lake, served, {surface.name: surface}, day)
                    for variant in (*variants.values(), together):
                        _await_features(client, variant, day)
                    days.append(
                        self._day(
                            client,
                            surface,
                            variants,
                            together,
                            day,
                            lambda n, day=day: tell(f"{surface.name} {day}", n),
                        )
                    )
        constant = {
            "experiment": identity,
            "name": self.design.name,
            "preset": self.spec.preset,
            "world": self.spec.seed,
            "world_config": self.spec.model_dump_json(),
            "surface": surface.name,
        }
        rows = pa.concat_tables(days)
        for name, value in constant.items():
            rows = rows.append_column(name, pa.array([value] * len(rows)))
        return rows.select(USER_DAYS_SCHEMA.names).cast(USER_DAYS_SCHEMA)

    def _day(
        self,
        client: Client,
        surface: Surface,
        variants: dict[str, Variant],
        together: Variant,
        day: date,
        tell: Callable[[int], None],
    ) -> pa.Table:
        design, state = self.design, self.states[day]
        requests = draw_requests(
            self.world,
            state,
            "radio" if surface.name == "radio" else "homepage",
            count=design.requests_per_day,
            candidates=design.candidates,
            shown=design.shown,
            seed=design.seed,
        )
        users, asked_by = np.unique(requests.user, return_inverse=True)
        own = design.variant_of([f"u{user}" for user in users])[asked_by]
        rng = np.random.default_rng([design.seed, self.world.seed, state.day, _PAIRED_STREAM])
        paired = np.sort(rng.permutation(len(requests))[: design.paired_per_day])
        slots = np.zeros((len(variants), len(requests), design.shown), dtype=np.int64)
        inputs = frozenset(surface.inputs)
        for number, variant in enumerate(variants.values()):
            asked = np.union1d(np.flatnonzero(own == number), paired)
            slots[number, asked] = client.rank(
                lambda row, variant=variant: requests.body(row, variant.surface, day, inputs),
                asked.tolist(),
                design.shown,
                lambda answer, _, variant=variant: _check(answer, variant, day),
                tell,
            )
        bound = _discovery_bound(surface)
        shown = np.take_along_axis(slots, own[None, :, None], axis=0)[0]
        drawn = outcomes(self.world, requests, shown, discovery_bound=bound, expected=False)
        tables = [
            _tally(requests, np.flatnonzero(own == number), drawn, name, variant, "split", day)
            for number, (name, variant) in enumerate(variants.items())
        ]
        for number, (name, variant) in enumerate(variants.items()):
            mean = outcomes(self.world, requests, slots[number], discovery_bound=bound, expected=True)
            tables.append(_tally(requests, paired, mean, name, variant, "paired", day))
        if design.interleaved_share:
            tables += self._interleaved(client, surface, requests, variants, together, day, tell)
        return pa.concat_tables(tables)

    def _interleaved(
        self,
        client: Client,
        surface: Surface,
        requests: Requests,
        variants: dict[str, Variant],
        together: Variant,
        day: date,
        tell: Callable[[int], None],
    ) -> list[pa.Table]:
        """Let both variants answer some requests in one list, and credit each place's outcome to who picked it."""
        design = self.design
        rng = np.random.default_rng([design.seed, self.world.seed, requests.state.day, _INTERLEAVED_STREAM])
        rows = np.sort(rng.permutation(len(requests))[: design.interleaved_per_day])
        inputs, team = frozenset(surface.inputs), np.zeros((len(requests), design.shown), dtype=np.int64)
        _await_interleaving(client, requests.body(0, together.surface, day, inputs), together)

        def check(answer: Ranking, number: int) -> None:
            _check(answer, together, day)
            arms = [item.get("arm", "") for item in answer["items"][: design.shown]]
            team[rows[number]] = [_TEAMS.index(arm) for arm in arms]

        slots = np.zeros((len(requests), design.shown), dtype=np.int64)
        slots[rows] = client.rank(
            lambda row: requests.body(row, together.surface, day, inputs), rows.tolist(), design.shown, check, tell
        )
        drawn = slot_outcomes(self.world, requests, slots, discovery_bound=_discovery_bound(surface), expected=False)
        return [
            _tally(
                requests,
                rows,
                {metric: (values * (team == number)).sum(axis=1) for metric, values in drawn.items()},
                name,
                variant,
                "interleaved",
                day,
            )
            for number, (name, variant) in enumerate(variants.items())
        ]


def _discovery_bound(surface: Surface) -> float:
    bound = surface.labels.get("discovery_trail_bound", 0.0)
    if not isinstance(bound, (int, float)):
        raise TypeError(f"{surface.name}: labels.discovery_trail_bound is {bound!r}, not a number of seconds")
    return bound


def _await_interleaving(client: Client, body: Mapping[str, object], together: Variant) -> None:
    """Wait until the challenger too has taken over the features of a day."""
    assert together.challenger is not None
    end = time.monotonic() + _FEATURES_S
    while client.ask(body).get("interleaved", {}).get("release") != together.challenger.release:
        if time.monotonic() > end:
            raise ServerError(f"{together.surface} is not interleaved after {_FEATURES_S:g} s")
        time.sleep(0.02)


def _await_features(client: Client, variant: Variant, day: date) -> None:
    """Wait until the server has taken over the features of a day."""
    end = time.monotonic() + _FEATURES_S
    while (found := client.metadata(variant.surface)["parameters"]["feature_day"]) != day.isoformat():
        if time.monotonic() > end:
            raise ServerError(
                f"{variant.surface} still serves features of {found}, not of {day}, after {_FEATURES_S:g} s"
            )
        time.sleep(0.02)


def _check(answer: Ranking, variant: Variant, day: date) -> None:
    if (answer["release"], answer["feature_day"]) != (variant.release, day.isoformat()):
        raise ServerError(
            f"{variant.surface} answered with release {answer['release']} and features of {answer['feature_day']}, "
            f"not with {variant.release} and {day}"
        )


def _tally(
    requests: Requests,
    rows: np.ndarray,
    values: dict[str, np.ndarray],
    name: str,
    variant: Variant,
    estimate: Estimate,
    day: date,
) -> pa.Table:
    """Return the sums of some requests by user."""
    users, of = np.unique(requests.user[rows], return_inverse=True)
    count = len(users)
    return pa.table(
        {
            "arm": pa.array([name] * count, pa.string()),
            "release": pa.array([variant.release] * count, pa.string()),
            "estimate": pa.array([estimate] * count, pa.string()),
            "day": pa.array([day] * count, pa.date32()),
            "user_id": pa.array(id63_array(f"u{user}" for user in users), pa.int64()),
            "requests": pa.array(np.bincount(of, minlength=count)),
            **{metric: pa.array(np.bincount(of, values[metric][rows], count)) for metric in METRICS},
        }
    )
