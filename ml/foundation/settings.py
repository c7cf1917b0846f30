"""Settings: ``CROSSFADE_*`` variables, then ``$CROSSFADE_HOME/crossfade.toml``, then the app's, then defaults.

The home's TOML file lets every process of one home (UI, daemon, run workers, server) agree on what that home holds.
The app's says what is so for the app in every home; its relative paths start at the app's folder.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as UnreadableValue

from ml.foundation.documents import MAX_BYTES, Document, is_object
from ml.foundation.files import Bucket
from ml.foundation.names import fault_of, near_name

if TYPE_CHECKING:
    from ml.foundation.files import Bucket

PROJECT_ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT_ROOT / "examples"
"""The app folders that come with us."""
SETTINGS_FILE = "crossfade.toml"
CPU = "CPUExecutionProvider"
"""What onnxruntime calls this machine's CPUs."""
RANKER_SCORES = "ranker_scores"
"""Landing table of what the app's present ranker says; no day waits for it."""
SERVED = "served"
"""Landing table of what the server answered, as its log says; no day needs it."""
_PREFIX = "CROSSFADE_"
_PATHS = (
    "landing_dir",
    "serve_log_dir",
    "surfaces_dir",
    "teacher",
    "teacher_spec",
    "kuairand_dir",
    "trusted_keys",
    "sigstore_config",
)
_TEACHER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def home_from_environment() -> Path:
    """Return ``CROSSFADE_HOME`` as an absolute path (default ``./.crossfade``)."""
    return Path(os.environ.get("CROSSFADE_HOME") or ".crossfade").absolute()


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each variable or file, its value and what is expected."""


SHARED = ("catalog_url", "lake_url", "dagster_url", "artifacts_url", "ray_address", "serve_url")
"""Settings that name what lies outside of the instance directory."""


class Settings(BaseSettings):
    """Every setting of a Crossfade home. Paths may be relative to the working directory; they are made absolute."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    home: Path = Field(
        default_factory=home_from_environment, description="The instance directory: lake, artifacts, runs, reports."
    )
    app: Path | None = Field(
        default=None,
        description="The app's folder: settings, contract, surfaces, SQL; default: examples/kuairand where `source` is "
        "kuairand, else examples/simulator.",
    )
    source: Literal["simulator", "kuairand", "files"] = Field(
        default="simulator", description="Who fills the landing zone; `files` is the app's own export."
    )
    landing_dir: Path | None = Field(default=None, description="Landing zone; default $CROSSFADE_HOME/landing.")
    first_day: date = Field(default=date(2026, 1, 1), description="First day (UTC) that has events.")
    last_day: date | None = Field(default=None, description="Last day of a finite source; null for a live one.")
    development: bool = Field(
        default=False, description="A sample that `crossfade develop` made: all that it writes stays in its folder."
    )
    quiet_minutes: float = Field(
        default=30, ge=0, description="A table without _SUCCESS is complete after this silence."
    )
    max_quarantine_share: float = Field(
        default=0.01, ge=0, le=1, description="A day with more bad rows than this fails."
    )
    max_unpacked_mb: int = Field(
        default=512,
        ge=1,
        description="A landing file (.gz, .parquet) may unpack to so many MB, or to 20 times its size if that is more; "
        "a larger one fails its day by its name.",
    )
    optional_tables: tuple[str, ...] = Field(
        default=(
            "outcomes",
            "teacher_scores",
            RANKER_SCORES,
            SERVED,
            "source_impressions",
            "source_user_profiles",
            "source_item_profiles",
        ),
        description="Landing tables that a day may lack, beside `ranker_scores` and `served`; every other one of the "
        "contract is required.",
    )
    feature_window_days: int = Field(default=14, ge=1, le=90, description="W: days that trailing features look back.")
    smoothing_impressions: int = Field(
        default=20,
        ge=1,
        description="Weight of the overall rate in a smoothed rate of clicks (`item_ctr`), in impressions: an item or "
        "user with fewer has a rate near the overall one.",
    )
    smoothing_plays: int = Field(default=5, ge=1, description="The same of rates of skips and completions, in plays.")
    click_outcomes: tuple[str, ...] = Field(
        default=(),
        description="Names of landed outcomes that count as a click of their exposure in features, beside listens: for "
        "apps of ratings or orders. One of value 0 is none, and one that comes on a later day is not known in time.",
    )
    late_horizon_days: int = Field(
        default=90, ge=0, description="A landed day that changes later than this waits for a command."
    )
    surfaces_dir: Path | None = Field(default=None, description="Surface YAML files; default: surfaces/ of the app.")
    teacher: Path | None = Field(
        default=None, description="contract.yaml of the frozen teacher; default: the demo teacher, trained here."
    )
    teachers: dict[str, Path] = Field(
        default={},
        description="contract.yaml (or its folder) of each of several teachers by its name, in place of `teacher`: "
        '`teachers = {video = "teacher/video", books = "teacher/books"}`; heads then name `video/click`.',
    )
    teacher_spec: Path | None = Field(
        default=None, description="Demo teacher's training spec; default: teacher/demo.yaml of the app."
    )
    teacher_trained_through: date | None = Field(
        default=None, description="Last source day that the demo teacher may learn from; needed to train it."
    )
    kuairand_dir: Path | None = Field(default=None, description="Unpacked KuaiRand-Pure folder (holds data/*.csv).")
    kuairand_homepage_tabs: tuple[int, ...] = Field(
        default=(2, 4, 6), description="Tabs of KuaiRand that are the homepage; the radio has the app's others."
    )
    kuairand_random: bool = Field(
        default=False, description="Land KuaiRand's log of random exposures too: off-policy estimates come from them."
    )
    simulator_preset: Literal["tiny", "demo", "paper"] = Field(
        default="demo", description="Size of the simulated world."
    )
    simulator_seed: int = Field(default=1, ge=0, description="Seed of the simulated world.")
    simulator_shared_taste: float = Field(default=1.0, ge=0, le=1, description="How much taste both platforms share.")
    simulator_linked_share: float = Field(
        default=0.9, ge=0, le=1, description="Share of app users with a linked account."
    )
    simulator_shuffled_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the homepage's shelves whose order is drawn, each item's propensity logged.",
    )
    demo: bool = Field(default=False, description="A demo made this instance directory and may rebuild it.")
    seed: int = Field(default=1, ge=0, description="Seed of students, bootstraps and samples.")
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads of torch and DuckDB.")
    teacher_providers: tuple[str, ...] = Field(
        default=(CPU,),
        min_length=1,
        description="What onnxruntime runs the teacher on, the first that is there: CUDAExecutionProvider needs "
        "onnxruntime-gpu in place of onnxruntime. Where it is not there, the CPU does it, and the log says so.",
    )
    ray_address: str | None = Field(
        default=None,
        pattern=r"^(auto|(ray://)?[^/:\s]+:\d+)$",
        description="Ray cluster that scores soft labels and takes the worlds of studies, in place of this process's "
        "threads: auto, host:port from one of its nodes, or ray://host:port from elsewhere; "
        "docs/how-to/many_machines.md says how to install Ray.",
    )
    memory_limit: str = Field(default="2GB", description="Memory that DuckDB may use before it spills to disk.")
    build_rows: int = Field(
        default=500_000,
        ge=1,
        description="Exposures and listens that one dbt call builds; a range of days with more is built in several.",
    )
    automation: bool = Field(default=False, description="Sensors and schedules are on unless somebody turns them off.")
    sensor_seconds: int = Field(default=60, ge=1, description="Least seconds between two looks of a sensor.")
    release_cron: str = Field(default="0 5 * * *", description="When the schedule asks for a release of each surface.")
    release_timezone: str = Field(default="UTC", description="Time zone of `release_cron`.")
    alerts: SecretStr | None = Field(
        default=None,
        description="Addresses that alerts go to, apart by blanks: Slack, Teams, PagerDuty, mail, webhooks; "
        "docs/how-to/alerts.md has one of each. Secret: give it in the environment.",
    )
    ui_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Address of the Dagster UI, for the links of alerts."
    )
    mlflow_uri: str | None = Field(
        default=None,
        pattern=r"^(https?://|sqlite:///)\S+$",
        description="MLflow tracking server (http://...), or a file (sqlite:///...), that figures and verdicts go to "
        "(EXTRAS=mlflow); who asks is said by MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN; off without it.",
    )
    openlineage_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Server such as Marquez that OpenLineage events of every run go to (EXTRAS=openlineage); its key "
        "is OPENLINEAGE_API_KEY, the namespace OPENLINEAGE_NAMESPACE (crossfade); off without it.",
    )
    late_after_hours: float = Field(
        default=24, gt=0, description="A day that has not landed so many hours after it ended (UTC) is told of."
    )
    catalog_url: SecretStr | None = Field(
        default=None,
        description="postgresql://user:password@host:port/database of the lake's catalog, in place of the SQLite file "
        "of the instance directory.",
    )
    lake_writers: int = Field(
        default=1,
        ge=1,
        description="Steps that write to the lake at once, each its own days; more than 1 need a Postgres catalog. "
        "`crossfade init` sets the pool's limit.",
    )
    lake_url: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+/.+",
        description="s3://bucket/prefix of the lake's data files, in place of $CROSSFADE_HOME/lake/data; credentials, "
        "region and endpoint come from the AWS_* variables.",
    )
    dagster_url: SecretStr | None = Field(
        default=None,
        description="postgresql+psycopg2://user:password@host:port/database of Dagster's runs, events and schedules, "
        "in place of files in the instance directory.",
    )
    artifacts_url: str | None = Field(
        default=None,
        pattern=r"^s3://",
        description="s3://bucket/prefix of artifacts, verdicts and releases in place of $CROSSFADE_HOME/artifacts; "
        "credentials, region and endpoint come from the AWS_* variables.",
    )
    signing_key_file: Path | None = Field(
        default=None,
        description="Private key (PEM, mode 600) that signs verdicts, releases and the champion log; `crossfade keys "
        "new` makes one.",
    )
    signing_key: SecretStr | None = Field(
        default=None, description="The private key itself, in place of `signing_key_file`."
    )
    trusted_keys: Path | None = Field(
        default=None,
        description="Folder of the public keys (`<name>.pub`) whose signatures count; default: the key that signs. "
        "Where any key is set, what no trusted key signed is neither promoted, served, rolled back to nor reproduced.",
    )
    signing: Literal["key", "keyless"] = Field(
        default="key",
        description="What signs: a `key`, where one is set, or `keyless` an identity of OpenID Connect, to which "
        "Sigstore gives a certificate of minutes (EXTRAS=keyless); docs/how-to/sign.md has both.",
    )
    signing_token: SecretStr | None = Field(
        default=None,
        description="Token of the identity that signs, for the audience sigstore; default: what the CI job offers.",
    )
    signing_token_file: Path | None = Field(
        default=None, description="File of that token, in place of `signing_token`; read anew for each certificate."
    )
    trusted_identities: tuple[str, ...] = Field(
        default=(),
        description="Identities whose keyless signatures count, each with its issuer after a blank, beside "
        '`trusted_keys`: `["ada@app.example https://accounts.google.com"]`. As with keys, what nobody trusted signed '
        "counts for nothing then.",
    )
    sigstore_config: Path | None = Field(
        default=None,
        description="Client trust configuration (JSON) of a Sigstore of your own; default: the public one.",
    )
    keep_snapshots_days: float = Field(
        default=7, ge=0, description="Housekeeping keeps younger snapshots of the lake, and those that a release names."
    )
    merge_after_days: int = Field(
        default=90,
        ge=0,
        description="Housekeeping merges the day files of a month, compressed harder, so many days after it is over.",
    )
    reference_days: int = Field(
        default=90,
        ge=1,
        description="Days after which a person is asked to confirm the champion as the reference that slow decay is "
        "measured from.",
    )
    keep_releases: int = Field(default=5, ge=3, description="Releases per surface that stay to return to.")
    keep_days: dict[str, int] = Field(
        default={},
        description="Days of tables that housekeeping leaves, by `schema.table` or a pattern (`landing.*_scores`); all "
        "days stay of a table that none names.",
    )
    keep_artifacts_days: float = Field(
        default=90,
        ge=0,
        description="Checkpoints, exports, evaluations and verdicts of candidates that are no stored release are kept "
        "so long.",
    )
    keep_runs_days: float = Field(
        default=30, ge=0, description="Files of dbt calls and of failed runs are kept so long."
    )
    housekeeping_cron: str = Field(default="0 3 * * 0", description="When the schedule tidies the instance directory.")
    verify_cron: str = Field(
        default="30 1 * * *",
        description="When the schedule reads a part of the lake's files and compares their hashes.",
    )
    verify_nights: int = Field(default=14, ge=1, description="Each file of the lake is read in one of so many nights.")
    serve_host: str = Field(default="127.0.0.1", description="Address that the server binds to.")
    serve_port: int = Field(default=8080, ge=0, le=65535, description="Port of the server; 0 takes a free one.")
    serve_url: str | None = Field(default=None, description="Server that the health sensor asks; off without it.")
    unserved_minutes: float = Field(
        default=10, gt=0, description="A champion that the server has not taken up for so long is rolled back."
    )
    serve_token: SecretStr | None = Field(default=None, description="Bearer token that the server asks for, if set.")
    serve_grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of the protocol over gRPC (EXTRAS=grpc); off without it."
    )
    serve_grpc_host: str = Field(default="127.0.0.1", description="Address that gRPC binds to.")
    serve_drain_s: float = Field(
        default=3,
        ge=0,
        description="Seconds that a server that was told to end answers on, while `ready` sends traffic elsewhere.",
    )
    serve_log_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the answers of /rank that the server logs, to be landed as `served`; 0 logs none.",
    )
    serve_log_dir: Path | None = Field(
        default=None,
        description="Where the log goes, as `day=YYYY-MM-DD/*.jsonl.gz`; default `served` of `landing_dir`.",
    )
    serve_log_minutes: float = Field(
        default=5, gt=0, description="A file of the log is finished after so long, or when it has 64 MB unpacked."
    )
    keep_served_days: int = Field(
        default=30, ge=1, description="Housekeeping removes files and rows of the log that are of earlier days."
    )
    max_feature_age_days: int = Field(default=3, ge=1, description="Older serving features make the server not ready.")

    def __init__(self, **values: Any) -> None:
        """Read the settings from all of their sources.

        Raises:
            SettingsError: Values or names that cannot be; says all of them, each with its variable or file.
        """
        unknown = list(_unknown_variables(os.environ, type(self)))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError("\n".join([*unknown, *_faults(error, type(self), values)])) from error
        except UnreadableValue as error:
            raise SettingsError("\n".join([*unknown, _unreadable(error)])) from error
        if unknown:
            raise SettingsError("\n".join(unknown))

    @field_validator("optional_tables")
    @classmethod
    def _with_scores(cls, tables: tuple[str, ...]) -> tuple[str, ...]:
        """Keep a list that was written before there were these tables from requiring them."""
        return (*tables, *(name for name in (RANKER_SCORES, SERVED) if name not in tables))

    @field_validator("mlflow_uri", "openlineage_url")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        """Keep a password out of logs and messages, which name the address."""
        if url is not None and "@" in urlsplit(url).netloc:
            raise ValueError("holds a user or a password: take them out, the client's own variables are for them")
        return url

    @field_validator("trusted_identities")
    @classmethod
    def _of_pairs(cls, identities: tuple[str, ...]) -> tuple[str, ...]:
        for pair in identities:
            if len(words := pair.split()) < 2 or not words[-1].startswith(("https://", "http://")):
                raise ValueError(
                    f"{pair!r} is no identity and its issuer, such as 'ada@app.example https://accounts.google.com'"
                )
        return identities

    @field_validator("teachers")
    @classmethod
    def _of_names(cls, teachers: dict[str, Path]) -> dict[str, Path]:
        if odd := [name for name in teachers if not _TEACHER_NAME.fullmatch(name)]:
            raise ValueError(
                f"{odd[0]!r} is no name of a teacher: letters, digits, _ and - alone, as its contract has it"
            )
        return teachers

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        if self.teacher is not None and self.teachers:
            raise ValueError(
                f"both `teacher` ({self.teacher}) and `teachers` ({', '.join(self.teachers)}) are set: leave one out"
            )
        home, app = self.home.absolute(), (self.app or _app_of(self.source)).resolve()
        defaults: dict[str, Path | None] = {
            "home": home,
            "app": app,
            "landing_dir": (self.landing_dir or home / "landing").absolute(),
            "serve_log_dir": (self.serve_log_dir or (self.landing_dir or home / "landing") / SERVED).absolute(),
            "surfaces_dir": (self.surfaces_dir or app / "surfaces").absolute(),
            "teacher": None if self.teachers else (self.teacher or home / "teacher" / "contract.yaml").absolute(),
            "teacher_spec": (self.teacher_spec or app / "teacher" / "demo.yaml").absolute(),
            "signing_key_file": self.signing_key_file and self.signing_key_file.absolute(),
            "signing_token_file": self.signing_token_file and self.signing_token_file.absolute(),
            "trusted_keys": self.trusted_keys and self.trusted_keys.absolute(),
            "sigstore_config": self.sigstore_config and self.sigstore_config.absolute(),
        }
        for name, value in defaults.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "teachers", {name: path.absolute() for name, path in self.teachers.items()})
        # SQLAlchemy takes a plain postgresql:// for another driver than the one that is installed.
        if self.dagster_url and not self.dagster_url.get_secret_value().startswith("postgresql+psycopg2://"):
            raise ValueError("CROSSFADE_DAGSTER_URL does not start with postgresql+psycopg2://")
        if self.lake_writers > 1 and self.catalog_url is None:
            raise ValueError(
                f"lake_writers is {self.lake_writers}, but the embedded catalog has one writer: set "
                "CROSSFADE_CATALOG_URL to a Postgres database, or leave it at 1"
            )
        if self.development and (shared := [name for name in SHARED if getattr(self, name)]):
            variables = ", ".join(f"CROSSFADE_{name.upper()}" for name in shared)
            raise ValueError(
                f"{self.home} is a sample for development and keeps what it writes in its folder: unset {variables}"
            )
        if self.last_day is not None and self.last_day < self.first_day:
            raise ValueError(f"last_day {self.last_day} lies before first_day {self.first_day}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, the home's TOML file, the app's.

        Raises:
            ValueError: A variable or the home's file names an app whose folder is not there.
        """
        home = Path(init_settings().get("home") or home_from_environment())
        of_process, of_home = {**env_settings(), **init_settings()}, _read(home / SETTINGS_FILE)
        given = {**of_home, **of_process}
        app = Path(given.get("app") or _app_of(given.get("source"))).resolve()
        if not app.is_dir():
            raise ValueError(f"CROSSFADE_APP: no folder at {app}; it names the folder that holds the app's surfaces/")
        # Tables of several sources would be merged; whoever names teachers names all of them.
        files = [_without_teachers(of_home, of_process), _without_teachers(app_values(app), given)]
        toml, of_app = (InitSettingsSource(settings_cls, init_kwargs=values) for values in files)
        return init_settings, env_settings, toml, of_app

    @property
    def lake_dir(self) -> Path:
        """Folder of catalog and data files."""
        return self.home / "lake"

    @property
    def catalog_path(self) -> Path:
        """SQLite file of the embedded DuckLake catalog."""
        return self.lake_dir / "catalog.sqlite"

    @property
    def has_lake(self) -> bool:
        """Whether a catalog is there, or is said to be elsewhere; opening a lake would make it."""
        return self.catalog_url is not None or self.catalog_path.exists()

    @property
    def artifacts_dir(self) -> "Path | Bucket":
        """Content-addressed artifacts, verdicts and releases: a folder, or a place in an object store."""
        return Bucket(self.artifacts_url, self.home / "cache") if self.artifacts_url else self.home / "artifacts"

    @property
    def reports_dir(self) -> Path:
        """Reports written by commands, such as demo.json."""
        return self.home / "reports"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder."""
        return self.home / "dagster"

    @property
    def trains_demo_teacher(self) -> bool:
        """Whether this home trains the demo teacher, rather than using a teacher from elsewhere."""
        return not self.teachers and self.teacher == self.home / "teacher" / "contract.yaml"

    def days(self, start: date, end: date) -> list[date]:
        """Return the days of [start, end], both included."""
        return [start + timedelta(days=i) for i in range((end - start).days + 1)]


_NO_SETTINGS = frozenset((
    "TRACEBACK", "PICTURES", "LAKE", "LAKE_OPTIONS", "LAKE_EXTENSIONS", "DUCKDB_OPTIONS", "DUCKDB_SETTINGS",
    "DBT_PACKAGES", "FEATURE_TABLES",
))  # fmt: skip
"""Variables of ours that are no settings: what dbt's profile reads, and switches of commands and tests."""
_OF_A_CLUSTER = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP)")
"""What Kubernetes tells each pod of a service that is called crossfade."""


def _unknown_variables(environment: Mapping[str, str], settings: type[Settings]) -> Iterator[str]:
    """Say of every variable that looks like a setting and is none what it may be meant for."""
    known = {name.upper() for name in settings.model_fields}
    for name, value in sorted(environment.items()):
        upper = name.upper()
        own = upper.removeprefix(_PREFIX)
        if own == upper or own in known or own in _NO_SETTINGS:
            continue
        if _OF_A_CLUSTER.search(upper) or value.startswith(("tcp://", "udp://")):
            continue
        near = near_name(own, known)
        meant = f"did you mean '{_PREFIX}{near}'?" if near else "`crossfade settings` lists those there are"
        yield f"{name}: unknown variable; {meant}"


def _faults(error: ValidationError, settings: type[Settings], values: Document) -> Iterator[str]:
    """Say every fault of the settings: where the value was given, the value and what is expected."""
    home = Path(values.get("home") or home_from_environment())
    files = {home / SETTINGS_FILE: _read(home / SETTINGS_FILE)}
    app = values.get("app") or os.environ.get(f"{_PREFIX}APP") or files[home / SETTINGS_FILE].get("app")
    if app:
        files[Path(app).resolve() / SETTINGS_FILE] = _read(Path(app).resolve() / SETTINGS_FILE)
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        field = settings.model_fields.get(name)
        shown = field is None or "SecretStr" not in str(field.annotation)
        yield fault_of(fault, settings, _given_by(name, values, files), shown=shown)


def _given_by(name: str, values: Mapping[str, object], files: Mapping[Path, Mapping[str, object]]) -> str:
    """Return what gave a setting: the variable, or the file with the line."""
    variable = f"{_PREFIX}{name.upper()}"
    if not name or name in values:
        return name
    if variable in os.environ:
        return variable
    for path, content in files.items():
        if name in content:
            lines = path.read_text(encoding="utf-8").splitlines()
            numbers = [n for n, line in enumerate(lines, 1) if re.match(rf"\s*{re.escape(name)}\s*=", line)]
            return f"{path}{f' line {numbers[0]}' if numbers else ''}: {name}"
    return name


def _unreadable(error: UnreadableValue) -> str:
    """Say which variable holds no JSON, which lists need."""
    named = re.search(r'field "(\w+)"', str(error))
    variable = f"{_PREFIX}{named[1].upper()}" if named else "a variable"
    return f'{variable}: must be a JSON list such as \'["a", "b"]\', not {os.environ.get(variable, "")!r:.200}'


def app_values(app: Path) -> Document:
    """Return what the ``crossfade.toml`` of an app's folder says, relative paths below that folder."""
    path = app / SETTINGS_FILE
    values = _read(path)
    if own := values.keys() & {"home", "app"}:
        raise ValueError(f"{path}: {', '.join(sorted(own))} cannot be set by the app, which any home may name")
    own = {name: app / values[name] for name in _PATHS if name in values}
    if is_object(teachers := values.get("teachers")):
        own["teachers"] = {name: app / path if isinstance(path, str) else path for name, path in teachers.items()}
    return values | own


def _without_teachers(values: Document, over: Mapping[str, object]) -> Document:
    """Return what a file says, less teachers where something that wins over it names some."""
    return {name: value for name, value in values.items() if name != "teachers" or name not in over}


def kept_values(home: Path) -> Document:
    """Return what the ``crossfade.toml`` of a home says; nothing where there is none."""
    return _read(home / SETTINGS_FILE)


def _app_of(source: str | None) -> Path:
    return EXAMPLES / ("kuairand" if source == "kuairand" else "simulator")


def write_settings_file(home: Path, values: dict[str, object]) -> Path:
    """Write (merge) ``values`` into the home's TOML file atomically and return its path."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / SETTINGS_FILE
    merged = _read(path)
    merged.update({k: v for k, v in values.items() if v is not None})
    lines = [f"{k} = {_toml(v)}\n" for k, v in sorted(merged.items())]
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text("".join(lines), encoding="utf-8")
    scratch.replace(path)
    return path


def _read(path: Path) -> Document:
    """Return what a settings file says; nothing where there is none.

    Raises:
        ValueError: It is no TOML, or longer than any that this project has a use for; names the file.
    """
    if not path.exists():
        return {}
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: it is longer than {MAX_BYTES:,} bytes, the most that is read")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case date():
            return value.isoformat()
        case list() | tuple():
            return "[" + ", ".join(map(_toml, cast("Sequence[object]", value))) + "]"
        case dict():
            entries = cast("dict[str, object]", value).items()
            return "{" + ", ".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in entries) + "}"
        case _:
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
