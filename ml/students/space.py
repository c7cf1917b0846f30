"""What tuning may choose: settings of control and student, what is tried beside each, and the surfaces that they mean.

Learning rates are factors of what follows from the number of rows, so that a factor of 1 leaves a key out of the file,
and the rates go on following.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ml.students.optimizer import Recipe
from ml.surfaces.learning import Training
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE, HeadRules, techniques

Value = str | float | int | None
Setting = Mapping[str, Value]

RATES = ("learning_rate", "embedding_learning_rate")
_STEP = 3.0
_DECAYS = (1e-2, 1e-1, 0.0)
_WIDTHS = (2.0, 0.5)
_LEAST_WIDTH = 4


@dataclass(frozen=True)
class ControlSpace:
    """Learning rates, decay, passes, size of ids and width of the layers: what a control is trained with.

    Attributes:
        surface: As it is in the file.
        rows: Rows that a trial is trained on.
    """

    surface: Surface
    rows: int

    @property
    def present(self) -> Setting:
        """Return the setting of the file."""
        own = self.surface.training
        rates = {name: _factor(getattr(own, name), usual) for name, usual in self._usual.items()}
        sizes = [spec.embedding for spec in self.surface.inputs.values() if spec.type == "id"]
        present = {"weight_decay": own.weight_decay, "epochs": own.epochs, "embedding": max(sizes, default=0)}
        return {**rates, **present, "width": 1.0}

    def first(self) -> list[Setting]:
        """Return what is tried first: the file's setting, and what nobody set."""
        unset = Training()
        usual = {"weight_decay": unset.weight_decay, "epochs": unset.epochs}
        return _distinct([self.present, {**self.present, **dict.fromkeys(RATES, 1.0), **usual}])

    def around(self, best: Setting) -> list[Setting]:
        """Return the settings that differ from one in a single value."""
        changes: list[Setting] = [
            {name: _rounded(float(best[name] or 1.0) * factor)} for factor in (_STEP, 1 / _STEP) for name in RATES
        ]
        changes += [{"weight_decay": decay} for decay in _DECAYS]
        if size := int(best["embedding"] or 0):
            changes += [{"embedding": 2 * size}, {"embedding": max(1, size // 2)}]
        changes += [{"width": width} for width in _WIDTHS]
        changes += [{"epochs": epochs} for epochs in (1, Training().epochs)]
        return _others(best, changes)

    def last(self) -> list[Setting]:
        """Return what is tried where nothing around the best is better."""
        return []

    def surface_of(self, setting: Setting) -> Surface:
        """Return the surface with a setting."""
        content = self.surface.model_dump(mode="json", by_alias=True)
        for name, usual in self._usual.items():
            factor = float(setting[name] or 1.0)
            if factor != self.present[name]:
                content["training"][name] = None if factor == 1 else _rounded(factor * usual)
        content["training"] |= {name: setting[name] for name in ("weight_decay", "epochs")}
        if setting["embedding"] != self.present["embedding"]:
            for spec in content["inputs"].values():
                if spec["type"] == "id":
                    spec["embedding"] = setting["embedding"]
        width = float(setting["width"] or 1.0)
        if width != 1:  # else a narrow layer would become one of the least width
            network = content["network"]
            for name in ("bottom", "tower"):
                network[name] = [max(_LEAST_WIDTH, round(width * w)) for w in network[name]]
        return Surface.model_validate(content)

    @property
    def _usual(self) -> dict[str, float]:
        """Rates that follow from the number of rows."""
        unset = self.surface.training.model_copy(update=dict.fromkeys(RATES))
        recipe = Recipe.of(unset, self.rows)
        return {name: getattr(recipe, name) for name in RATES}


@dataclass(frozen=True)
class StudentSpace:
    """Technique, and for each teacher output the weight of its head and what it is centred by.

    Attributes:
        surface: With the control's setting already in it.
        outputs: Outputs of the teacher that may be learnt.
        centres: Ids that a soft label may be centred by.
        names: Techniques that the surface can have.
    """

    surface: Surface
    outputs: tuple[str, ...] = field(init=False)
    centres: tuple[str, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        surface = self.surface
        taught = [task.teacher_output for task in surface.tasks.values() if task.teacher_output]
        outputs = [*taught, *(head.teacher_output for head in surface.distillation.heads)]
        ids = [name for pair in surface.network.products for name in pair if surface.inputs[name].type == "id"]
        rules = {name: listed.heads for name, listed in techniques().items()}
        names = [name for name in rules if surface.network.interaction or not rules[name].branch]
        set_ = object.__setattr__
        set_(self, "outputs", tuple(dict.fromkeys(outputs)))
        set_(self, "centres", tuple(dict.fromkeys(name for name in ids if name in ("user_id", "item_id"))))
        set_(self, "names", tuple(names))

    @property
    def present(self) -> Setting | None:
        """Return the setting of the file; None where it distils nothing."""
        distillation = self.surface.distillation
        if distillation.technique == NO_TECHNIQUE:
            return None
        heads = {head.teacher_output: head for head in distillation.heads}
        found: dict[str, Value] = {"technique": distillation.technique}
        for output in self.outputs:
            head = heads.get(output)
            found[f"{output}.weight"] = head.weight if head else 0.0
            if distillation.rules.centre_by:
                found[f"{output}.centre_by"] = head.centre_by if head else None
        return found

    def first(self) -> list[Setting]:
        """Return what is tried first: the file's setting, then the two techniques that most teachers suit."""
        users = "user_id" if "user_id" in self.centres else None
        usual = [("interaction", 1.0, users), ("interaction", 1.0, None), ("auxiliary", 0.3, None)]
        usual += [("auxiliary", 3.0, None), ("auxiliary", 1.0, users)]
        present = self.present
        named = [self._with(*each) for each in usual if each[0] in self.names]
        return _distinct([*([present] if present else []), *named])

    def last(self) -> list[Setting]:
        """Return what is tried where nothing around the best is better: the other techniques."""
        return [self._with(name, 0.3, None) for name in self.names if name not in ("interaction", "auxiliary")]

    def around(self, best: Setting) -> list[Setting]:
        """Return the settings that differ from one in what is done with a single output."""
        changes: list[Setting] = []
        alone = len(self.outputs) == 1
        for output in self.outputs:
            weight = float(best[f"{output}.weight"] or 0.0)
            others = [_rounded(_STEP * weight), _rounded(weight / _STEP), 0.0] if weight else [1.0]
            if alone:  # it has to be learnt, and in a branch of its own there is nothing to weigh it against
                others = [] if self._rules(str(best["technique"])).branch else others[:2]
            changes += [{f"{output}.weight": other} for other in others]
            if f"{output}.centre_by" in best:
                changes += [{f"{output}.centre_by": centre} for centre in (None, *self.centres)]
        return [each for each in _others(best, changes) if self._teaches(each)]

    def surface_of(self, setting: Setting) -> Surface:
        """Return the surface with a setting."""
        if setting == self.present:
            return self.surface
        technique = str(setting["technique"])
        content = self.surface.model_dump(mode="json", by_alias=True)
        heads = [] if technique == NO_TECHNIQUE else list(self._heads(setting, technique))
        own = {"code": self.surface.distillation.code} if technique == self.surface.distillation.technique else {}
        unshown = content["distillation"].get("unshown")
        content["distillation"] = {**own, "technique": technique, "heads": heads}
        if unshown and technique != NO_TECHNIQUE and self._rules(technique).branch:
            content["distillation"]["unshown"] = unshown
        return Surface.model_validate(content)

    def _with(self, technique: str, weight: float, centre: str | None) -> Setting:
        centred = self._rules(technique).centre_by
        found: dict[str, Value] = {"technique": technique}
        for output in self.outputs:
            found[f"{output}.weight"] = weight
            if centred:
                found[f"{output}.centre_by"] = centre
        return found

    def _rules(self, technique: str) -> HeadRules:
        """Return what a technique asks of its heads; the surface's may be the app's own."""
        present = self.surface.distillation
        return present.rules if technique == present.technique else techniques()[technique].heads

    def _teaches(self, setting: Mapping[str, Value]) -> bool:
        return any(setting[f"{output}.weight"] for output in self.outputs)

    def _heads(self, setting: Mapping[str, Value], technique: str) -> Iterator[dict[str, Value]]:
        """Yield the heads; where they stand beside tasks, beside each that has the output, or else the first."""
        for output in self.outputs:
            if not setting[f"{output}.weight"]:
                continue
            head: dict[str, Value] = {"teacher_output": output, "weight": setting[f"{output}.weight"]}
            if centre := setting.get(f"{output}.centre_by"):
                head["centre_by"] = centre
            if not self._rules(technique).task:
                yield head
                continue
            tasks = [name for name, task in self.surface.tasks.items() if task.teacher_output == output]
            for task in tasks or [next(iter(self.surface.tasks))]:
                yield {"task": task, **head}


Space = ControlSpace | StudentSpace


def _factor(rate: float | None, usual: float) -> float:
    return 1.0 if rate is None else _rounded(rate / usual)


def _rounded(value: float) -> float:
    """Return a number of three digits: what is tried is what is written."""
    return float(f"{value:.3g}")


def _others(best: Setting, changes: list[Setting]) -> list[Setting]:
    return [setting for setting in _distinct([{**best, **change} for change in changes]) if setting != best]


def _distinct(settings: list[Setting]) -> list[Setting]:
    return [setting for place, setting in enumerate(settings) if setting not in settings[:place]]
