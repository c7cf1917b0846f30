"""The ranker: a shared-bottom multi-task network over embeddings, numbers and products of embeddings."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ml.distillation.technique import Activations, Technique, Widths, perceptron
from ml.students.preprocessing import Preprocessing, key
from ml.students.vocabulary import UNKNOWN_ROW
from ml.surfaces import expression
from ml.surfaces.expression import Function
from ml.surfaces.learning import InteractionBranch
from ml.surfaces.own import class_of, own_module
from ml.surfaces.spec import Surface

SCORE = "score"
"""Name of the ranking score among the outputs."""

TORCH: dict[str, Function] = {"sigmoid": torch.sigmoid, "exp": torch.exp, "log1p": torch.log1p, "clip": torch.clamp}
"""Functions of ``rank_by`` over tensors."""

_EMBEDDING_DEVIATION = 0.1


class Factors(nn.Module):
    """Embedding tables, and products of what a surface pairs.

    Args:
        surface: Inputs and pairs.
        preprocessing: Fitted; gives the sizes of vocabularies and where a vector lies among the dense numbers.
        names: Ids and categories to embed.
        embedding: Size of every embedding, for a branch: pairs of vectors, in which nothing is embedded, are left out.
            By default each input has its own size, and every pair is multiplied.

    Raises:
        ValueError: A pair has no common embedding size.
    """

    def __init__(
        self, surface: Surface, preprocessing: Preprocessing, names: Sequence[str], embedding: int | None = None
    ) -> None:
        super().__init__()
        inputs = surface.inputs
        self.ids = {name: (key(preprocessing.vocabulary[name]), preprocessing.ids.index(name)) for name in names}
        self.slices = dict(preprocessing.slices)
        self.tables = nn.ModuleDict()
        for vocabulary in dict.fromkeys(preprocessing.vocabulary[name] for name in names):
            spec = inputs[vocabulary]
            # Of ids there may be millions: their gradients name the rows of a batch and nothing else.
            sparse = spec.type == "id"
            table = nn.Embedding(preprocessing.sizes[vocabulary], embedding or spec.embedding, sparse=sparse)
            nn.init.normal_(table.weight, std=_EMBEDDING_DEVIATION)
            with torch.no_grad():
                table.weight[UNKNOWN_ROW] = 0.0
            self.tables[key(vocabulary)] = table
        self.projections = nn.ModuleDict()
        self.pairs: list[tuple[str, str, int | None]] = []
        for left, right in surface.network.products:
            if _same_vectors(surface, left, right):
                if embedding is None:
                    self.pairs.append((left, right, None))
                continue
            size = embedding or _size(surface, left, right)
            self.pairs.append((left, right, size))
            for name in (left, right):
                if inputs[name].type == "vector" and _projection(name, size) not in self.projections:
                    self.projections[_projection(name, size)] = nn.Linear(inputs[name].length, size)
        self.width = sum(inputs[left].length if size is None else size for left, _, size in self.pairs)

    def forward(self, rows: Tensor, dense: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the embeddings, [n, size] each, and the products side by side, [n, width].

        Args:
            rows: Embedding rows, int64 [n, ids].
            dense: Standardised numbers, float32 [n, width].
        """
        embedded = {name: self.tables[table](rows[:, place]) for name, (table, place) in self.ids.items()}

        def factor(name: str, size: int | None) -> Tensor:
            if name in embedded:
                return embedded[name]
            vector = dense[:, self.slices[name]]
            return vector if size is None else self.projections[_projection(name, size)](vector)

        products = [factor(left, size) * factor(right, size) for left, right, size in self.pairs]
        return list(embedded.values()), torch.cat(products, dim=1) if products else dense[:, :0]


class Branch(nn.Module):
    """Products of embeddings of its own -> layers: see ``InteractionBranch`` of the surface.

    Args:
        surface: Has ``network.interaction``.
        preprocessing: Fitted.
        spec: Sizes.
    """

    def __init__(self, surface: Surface, preprocessing: Preprocessing, spec: InteractionBranch) -> None:
        super().__init__()
        paired = {name for pair in surface.network.products for name in pair}
        names = [name for name in preprocessing.ids if name in paired]
        self.factors = Factors(surface, preprocessing, names, spec.embedding)
        self.layers = perceptron(self.factors.width, spec.layers)

    def forward(self, rows: Tensor, dense: Tensor) -> Tensor:
        """Return the output of the last layer, [n, width]; arguments as those of ``Factors``."""
        _, products = self.factors(rows, dense)
        return self.layers(products)


class Ranker(nn.Module):
    """Embeddings, products and numbers -> bottom -> a tower per task -> a logit or value per task.

    Everything that serves is created before any distillation head, so that a student starts from the bits of the
    control of the same seed.

    Args:
        surface: Inputs, network, tasks and ranking score.
        preprocessing: Fitted on training rows.
        seed: Seed of the initial parameters.

    Attributes:
        distillation: Non-serving heads of a student; ``None`` in a control and in a ranker that serves.

    Raises:
        ValueError: Products of inputs that have no common embedding size, or a task named like an input or ``score``.
    """

    def __init__(self, surface: Surface, preprocessing: Preprocessing, seed: int) -> None:
        super().__init__()
        if clash := set(surface.tasks) & {SCORE, *surface.inputs}:
            raise ValueError(f"surface {surface.name}: {sorted(clash)} name both a task and an input or the score")
        self.surface = surface
        self.preprocessing = preprocessing
        self.rank_by = expression.parse(surface.rank_by, surface.tasks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.create()
        self.distillation: Technique | None = None

    def create(self) -> None:
        """Make everything that serves: ``heads``, ``widths`` and the modules that ``activations`` runs.

        A network of an app's own overrides it, and ``activations``. ``heads`` holds a linear layer of one output for
        each task by its ``key``, whose bias training starts at the base rate; ``widths`` are those of the activations.
        Draw all parameters here: whatever is drawn elsewhere differs between a student and its control.
        """
        inputs, network, pre = self.surface.inputs, self.surface.network, self.preprocessing
        self.factors = Factors(self.surface, pre, pre.ids)
        self.branch = Branch(self.surface, pre, network.interaction) if network.interaction else None
        taught = network.interaction.layers[-1] if network.interaction else 0
        width = pre.width + sum(inputs[name].embedding for name in pre.ids) + self.factors.width + taught
        self.bottom = perceptron(width, network.bottom)
        bottom = network.bottom[-1] if network.bottom else width
        self.towers = nn.ModuleDict({key(task): perceptron(bottom, network.tower) for task in self.surface.tasks})
        self.widths = Widths(bottom, network.tower[-1] if network.tower else bottom, taught)
        self.heads = nn.ModuleDict({key(task): nn.Linear(self.widths.tower, 1) for task in self.surface.tasks})

    def activations(self, rows: Tensor, dense: Tensor) -> Activations:
        """Run the network on preprocessed inputs.

        Args:
            rows: Embedding rows, int64 [n, ids].
            dense: Standardised numbers, float32 [n, width].
        """
        embedded, products = self.factors(rows, dense)
        interaction = self.branch(rows, dense) if self.branch else dense[:, :0]
        taught_alone = self.distillation is not None and self.distillation.owns_interaction
        feature = interaction.detach() if taught_alone else interaction
        bottom = self.bottom(torch.cat([dense, *embedded, products, feature], dim=1))
        towers = {task: self.towers[key(task)](bottom) for task in self.surface.tasks}
        outputs = {task: self.heads[key(task)](tower).squeeze(1) for task, tower in towers.items()}
        return Activations(bottom=bottom, towers=towers, outputs=outputs, interaction=interaction)

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score raw columns.

        Args:
            columns: {input: int64 or float32, [n] or [n, length]}.

        Returns:
            {task: logit or value, float32 [n]} and the ranking ``score``, float32 [n].
        """
        outputs = self.activations(*self.preprocessing(columns)).outputs
        return {**outputs, SCORE: self.rank_by(outputs, TORCH)}


def build_network(surface: Surface, preprocessing: Preprocessing, seed: int) -> Ranker:
    """Create the ranker of a surface: ours, or the app's own network where it names one.

    Raises:
        ValueError: See ``Ranker``; or the app's file defines no network.
    """
    network = surface.network
    if network.module is None or network.code is None:
        return Ranker(surface, preprocessing, seed)
    return class_of(own_module("networks", network.module, network.code), Ranker)(surface, preprocessing, seed)


def _same_vectors(surface: Surface, left: str, right: str) -> bool:
    specs = [surface.inputs[name] for name in (left, right)]
    return all(spec.type == "vector" for spec in specs) and specs[0].length == specs[1].length


def _size(surface: Surface, left: str, right: str) -> int:
    specs = [surface.inputs[name] for name in (left, right)]
    sizes = {spec.embedding for spec in specs if spec.type in ("id", "category")}
    if len(sizes) != 1 or not {spec.type for spec in specs} <= {"id", "category", "vector"}:
        raise ValueError(
            f"surface {surface.name}: product [{left}, {right}] needs two ids of one embedding size, "
            "an id and a vector, or two vectors of one length"
        )
    return sizes.pop()


def _projection(name: str, size: int) -> str:
    return f"{key(name)}_to_{size}"
