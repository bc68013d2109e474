"""The search, on models with predefined losses."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_exporter.errors import BudgetError, UnsupportedModelError
from bilstm_exporter.evaluation.search import MAX_EVALUATIONS, Measurement, recommend, search
from bilstm_exporter.evaluation.selection import MIXED, Budget, exceeded
from bilstm_exporter.evaluation.weight_groups import MAX_GROUPS, WeightGroup, find_weight_groups
from bilstm_exporter.quantization.recipes import RECIPES, Precision, PrecisionPlan

F32, F16, I8, I4 = Precision.FLOAT32, Precision.FLOAT16, Precision.INT8, Precision.INT4
ALL = tuple(RECIPES.values())
PLAIN = tuple(recipe for recipe in ALL if not recipe.calibrated)
OVERHEAD = 1_000


class Made:
    """A model of layers whose losses are given.

    Args:
        sizes: Elements by layer.
        costs: The drop, by layer and the precision from which on it costs that.
        together: Further drops of several layers that are all at a precision or below.
    """

    def __init__(self, sizes, costs=(), together=(), *, refuses=()):
        self.sizes = sizes
        self.costs = dict(costs)
        self.together = together
        self.refuses = refuses
        self.built = []
        self.plans = []

    @property
    def groups(self):
        groups = [WeightGroup((name,), size) for name, size in self.sizes.items()]
        return tuple(sorted(groups, key=lambda group: -group.elements))

    def of(self, plan):
        return {name: plan.of([name]) for name in self.sizes}

    def __call__(self, recipe, plan):
        levels = self.of(plan)
        self.plans.append(plan)
        self.built.append((recipe, tuple(levels.items())))
        if recipe in self.refuses:
            message = f"{recipe} cannot be written"
            raise UnsupportedModelError(message)
        size = OVERHEAD + sum(self.sizes[name] * level // 8 for name, level in levels.items())
        drop = sum(
            max([cost for at, cost in self.costs.get(name, {}).items() if level <= at], default=0)
            for name, level in levels.items()
        )
        drop += sum(
            cost for names, at, cost in self.together if all(levels[name] <= at for name in names)
        )
        error = sum((32 - level) * 0.01 for level in levels.values())
        return Measurement(size, drop, error, payload=levels)

    def search(self, budget, recipes=PLAIN, **options):
        return search("onnx", recipes, self.groups, budget, self, **options)


SIZES = {"embedding": 20_000, "forward": 80_000, "backward": 80_000, "dense": 4_000}
RUINED = Made(SIZES, {"dense": {I8: 31.0}})


def test_one_ruinous_layer_is_named_and_kept():
    result = Made(SIZES, {"dense": {I8: 31.0}}).search(Budget(max_drop=0.5), PLAIN[:3])
    assert result.recommended.recipe == MIXED
    assert result.recommended.payload == {**dict.fromkeys(SIZES, I8), "dense": F16}
    assert result.recommended.description == "int8, but 'dense' in float16"
    (kept,) = result.kept
    assert (kept.layers, kept.precision, kept.lower, kept.drop) == (("dense",), F16, I8, 31.0)
    assert "'dense' stays in float16: int8 of 'dense' alone loses 31.0 points" in result.reason
    assert "a drop of 0.5 %" in result.reason
    assert result.nearest is None


def test_what_bears_even_less_comes_down_further():
    costs = {"dense": {I8: 31.0}, "forward": {I4: 2.0}, "embedding": {I4: 0.2}}
    result = Made(SIZES, costs).search(Budget(max_drop=0.5))
    levels = result.recommended.payload
    assert levels == {"embedding": I4, "forward": I8, "backward": I4, "dense": F16}
    assert [kept.layers for kept in result.kept] == [("dense",), ("forward",)]


def test_where_the_ruinous_layer_is_most_of_the_model_it_is_named_too():
    sizes = {"big": 500_000, "small": 90_000}
    result = Made(sizes, {"big": {I8: 20.0}}).search(Budget(max_drop=1), PLAIN[:3])
    assert result.recommended.payload == {"big": F16, "small": I8}
    assert "int8 of 'big' alone loses 20.0 points" in result.reason
    sizes = {"big": 500_000, "small": 5_000}  # which saves less than 2 %
    result = Made(sizes, {"big": {I8: 20.0}}).search(Budget(max_drop=1), PLAIN[:3])
    assert result.recommended.recipe == "float16"
    assert "int8 of 'big' alone loses 20.0 points" in result.reason


def test_two_layers_that_ruin_only_together():
    made = Made(SIZES, together=[(("forward", "dense"), I8, 9.0)])
    result = made.search(Budget(max_drop=0.5), PLAIN[:3])
    assert result.recommended.payload == {**dict.fromkeys(SIZES, I8), "dense": F16}
    assert "with 'dense' in int8 too, the drop would be 9.0 points" in result.reason


def test_a_layer_raised_for_nothing_comes_down_again():
    # "small" looks worst per byte, but what ruins int8 is the two big ones together.
    made = Made(
        {"one": 90_000, "two": 80_000, "small": 1_000},
        {"small": {I8: 0.3}},
        [(("one", "two"), I8, 9.0)],
    )
    result = made.search(Budget(max_drop=0.5), PLAIN[:3])
    assert result.recommended.payload == {"one": I8, "two": F16, "small": I8}


@pytest.mark.parametrize(
    ("costs", "recipe"),
    [({}, "int4"), ({name: {I4: 9} for name in ("forward", "backward", "embedding")}, "int8")],
)
def test_where_a_plain_recipe_will_do_it_is_recommended(costs, recipe):
    # "dense" in int4 would save less than 2 %.
    result = Made(SIZES, costs).search(Budget(max_drop=0.5))
    assert result.recommended.recipe == recipe
    assert {kept.layers[0] for kept in result.kept} == set(costs)
    assert f"{recipe} is the smallest within a drop of 0.5 %" in result.reason


def test_a_drop_just_as_large_as_allowed_is_allowed():
    made = Made(SIZES, {"dense": {I4: 80.3 - 80.1}})  # a little more than 0.2 in float64
    assert made.search(Budget(max_drop=0.2)).recommended.recipe == "int4"


def test_nothing_fits():
    result = Made(SIZES, {"dense": {I8: 5.0}}).search(Budget(max_drop=0.5, max_kb=50))
    assert result.recommended is None
    assert result.nearest is not None
    assert exceeded(result.nearest, result.budget)
    assert result.reason.startswith("No mix of recipes is within a drop of 0.5 % and 50 KiB")
    assert result.nearest.description in result.reason
    assert "is too large" in result.reason or "loses too much" in result.reason


def test_the_closest_candidate_exceeds_its_limit_by_the_smallest_fraction():
    result = Made(SIZES, {"dense": {I8: 5.0}}).search(Budget(max_kb=1))
    assert result.nearest.recipe == "int4"


def test_a_size_alone_is_used_for_what_helps_most():
    made = Made(SIZES, {"dense": {I4: 3.0}, "forward": {I4: 6.0}})
    kib = (OVERHEAD + (80_000 * 8 + 104_000 * 4) // 8) / 1024 + 2.5  # room for two at int8
    result = made.search(Budget(max_kb=kib))
    assert result.recommended.payload == {
        "embedding": I4, "forward": I8, "backward": I4, "dense": I8,
    }  # fmt: skip
    assert result.recommended.drop == 0
    assert result.recommended.kib <= kib
    assert "loses least within" in result.reason
    assert Made(SIZES).search(Budget(max_kb=10_000)).recommended.drop == 0


def test_float32_is_recommended_where_it_is_small_enough():
    result = Made(SIZES).search(Budget(max_kb=10_000))
    assert result.recommended.recipe == "float32"


def timed(speed):
    """A measure: milliseconds by the precision of every layer."""

    def measure(candidates):
        return [sum(speed[level] for level in c.payload.values()) for c in candidates]

    return measure


SLOW_FLOAT16 = {F32: 3.0, F16: 9.0, I8: 1.0, I4: 2.0}


def test_a_time_rules_out_what_is_slow():
    made = Made(SIZES, {"dense": {I8: 31.0}})
    result = made.search(Budget(max_drop=0.5, max_ms=7), measure=timed(SLOW_FLOAT16))
    assert result.recommended.payload == {**dict.fromkeys(SIZES, I8), "dense": F32}
    assert result.recommended.milliseconds == pytest.approx(6)
    assert "6 ms" in result.reason


def test_a_time_alone_takes_what_loses_least():
    made = Made(SIZES, {"forward": {I8: 2.0}, "backward": {I8: 1.0}})
    open_ended = made.search(Budget(max_ms=100), measure=timed(SLOW_FLOAT16))
    assert open_ended.recommended.recipe == "float32"
    result = made.search(Budget(max_ms=8), measure=timed(SLOW_FLOAT16))
    assert result.recommended.payload["forward"] == F32
    assert result.recommended.milliseconds <= 8


def test_nothing_is_fast_enough():
    result = Made(SIZES).search(Budget(max_drop=1, max_ms=0.5), measure=timed(SLOW_FLOAT16))
    assert result.recommended is None
    assert result.nearest.recipe == "int8"
    assert "is too slow" in result.reason


def test_a_recipe_that_cannot_be_written_is_left_out():
    result = Made(SIZES, refuses=["int4"]).search(Budget(max_drop=0.5))
    assert result.recommended.recipe == "int8"
    assert result.failed == {"int4": "int4 cannot be written"}
    with pytest.raises(BudgetError, match="no recipe can be written"):
        Made(SIZES, refuses=[recipe.name for recipe in PLAIN]).search(Budget(max_drop=0.5))


def test_mixes_that_cannot_be_written_leave_the_plain_ones():
    made = Made(SIZES, {"dense": {I8: 31.0}}, refuses=[MIXED])
    assert made.search(Budget(max_drop=0.5)).recommended.recipe == "float16"


def test_a_calibrated_recipe_is_tried_and_no_mix_is_made_of_it():
    made = Made(SIZES, {"dense": {I8: 31.0}})
    search("tflite", ALL, made.groups, Budget(max_drop=0.5), made)
    assert [recipe for recipe, _ in made.built][: len(ALL)] == [recipe.name for recipe in ALL]
    assert not any(plan.integer_activations for plan in made.plans if plan.layers)


def test_a_prediction_that_is_not_a_number_is_never_recommended():
    result = Made(SIZES, {"dense": {I8: math.inf}}).search(Budget(max_drop=100), PLAIN[:3])
    assert result.recommended.payload["dense"] == F16
    assert all(math.isfinite(candidate.drop) for candidate in result.pareto)


def test_no_artifact_is_evaluated_twice_and_every_step_is_reported():
    made, reported = Made(SIZES, {"dense": {I8: 31.0}, "forward": {I4: 4.0}}), []
    made.search(Budget(max_drop=0.5), progress=reported.append)
    assert len(set(made.built)) == len(made.built) == len(reported)
    assert reported[0] == f"trying onnx as float32 (1 of at most {MAX_EVALUATIONS})"


def test_a_bound_on_the_evaluations_holds_and_is_reported():
    made = Made({f"layer{n}": 1000 + n for n in range(12)}, {"layer3": {I8: 9.0}})
    result = made.search(Budget(max_drop=0.5), max_evaluations=7)
    assert len(made.built) == 7
    assert result.exhausted
    assert not exceeded(result.recommended, result.budget)
    assert not made.search(Budget(max_drop=0.5)).exhausted


def test_a_limit_is_needed_and_a_clock_for_a_time():
    for budget in (Budget(), Budget(max_ms=1)):
        with pytest.raises(ValueError, match="needs a limit"):
            Made(SIZES).search(budget)


COSTS = st.dictionaries(
    st.sampled_from(sorted(SIZES)),
    st.dictionaries(st.sampled_from([I4, I8, F16]), st.floats(0, 9), max_size=2),
)
LIMITS = st.builds(
    Budget,
    max_drop=st.none() | st.floats(0, 5),
    max_kb=st.none() | st.floats(50, 800),
).filter(lambda budget: not budget.is_unlimited)


@settings(max_examples=150, deadline=None)
@given(COSTS, LIMITS)
@pytest.mark.slow
def test_any_losses_and_limits(costs, budget):
    made = Made(SIZES, costs)
    result = made.search(budget)
    assert len(made.built) <= MAX_EVALUATIONS
    if result.recommended is not None:
        assert not exceeded(result.recommended, budget)
        worse = [c for c in result.candidates if not exceeded(c, budget) and c.recipe != MIXED]
        if budget.max_drop is not None:
            assert all(result.recommended.bytes * 0.98 <= c.bytes for c in worse)
        else:
            assert all(result.recommended.drop <= c.drop for c in worse)
    else:
        assert all(exceeded(candidate, budget) for candidate in result.candidates)
    again = Made(SIZES, costs).search(budget)
    assert again.to_dict() == result.to_dict()
    for one in result.pareto:
        assert not any(
            other.bytes < one.bytes and other.drop < one.drop for other in result.candidates
        )


@settings(max_examples=60, deadline=None)
@given(COSTS)
def test_independent_losses_leave_nothing_that_could_come_down(costs):
    made = Made(SIZES, costs)
    result = made.search(Budget(max_drop=1.0), PLAIN[:3])
    if result.recommended is None or result.recommended.recipe != MIXED:
        return
    levels = result.recommended.payload
    for name, level in levels.items():
        if level == F16:
            lowered = Made(SIZES, costs)
            plan = PrecisionPlan(I8, {**levels, name: I8})
            assert lowered("mixed", plan).drop > 1.0


def test_formats_that_agree_and_that_do_not():
    agree = Made(SIZES, {"dense": {I4: 9.0}}).search(Budget(max_drop=0.5), PLAIN[:3])
    mixed = RUINED.search(Budget(max_drop=0.5), PLAIN[:3])
    none = RUINED.search(Budget(max_drop=0.5, max_kb=1))
    name, chosen = recommend({"onnx": agree, "tflite": agree})
    assert name == "int8"
    assert set(chosen) == {"onnx", "tflite"}
    name, chosen = recommend({"onnx": agree, "tflite": mixed})
    assert name == MIXED
    assert chosen["onnx"].recipe == "int8"
    assert recommend({"onnx": agree, "tflite": none}) is None


class Form:
    def __init__(self, layer, elements, storage="int8"):
        self.layer, self.elements, self.storage = layer, elements, storage


def test_groups_are_the_layers_that_share_no_weight():
    forms = [
        Form("a", 10), Form("a", 20), Form("b, c", 50), Form("c", 1), Form("", 5),
        Form("kept", 99, "float32"),
    ]  # fmt: skip
    assert find_weight_groups(forms) == (
        WeightGroup(("b", "c"), 51),
        WeightGroup(("a",), 30),
        WeightGroup((), 5),
    )
    assert find_weight_groups([Form("a, b", 1), Form("b, c", 1), Form("c, d", 1)]) == (
        WeightGroup(("a", "b", "c", "d"), 3),
    )


def test_many_small_layers_form_one_group():
    groups = find_weight_groups([Form(f"layer{n}", n) for n in range(100, 130)])
    assert len(groups) == MAX_GROUPS
    assert sum(len(group.layers) for group in groups) == 30
    assert sum(group.elements for group in groups) == sum(range(100, 130))
    assert "19 small layers" in groups[-1].label


def test_weights_of_no_layer_are_a_group_of_their_own():
    made = Made(SIZES, {"dense": {I8: 31.0}})
    groups = (*made.groups, WeightGroup((), 100))
    seen = []

    def evaluate(recipe, plan):
        seen.append(plan.of(()))
        found = made(recipe, plan)
        return replace(found, bytes=found.bytes + 1000 * plan.of(()) // 8)

    result = search("onnx", PLAIN[:3], groups, Budget(max_drop=0.5), evaluate)
    assert result.recommended.plan.default == I8
    assert F16 in seen[3:]
