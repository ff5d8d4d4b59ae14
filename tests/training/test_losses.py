"""Losses against float64 formulas and torch's own, and their behaviour where labels are missing."""

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from triaffect.labels import ACTION_UNITS, EXPRESSIONS, OUTPUTS, TASKS
from triaffect.training.losses import (
    TaskLosses,
    adjusted_cross_entropy,
    asymmetric,
    au_focal,
    au_pos_weight,
    binary_cross_entropy,
    ccc_loss,
    cross_entropy,
    expression_focal,
    expression_weights,
    mse,
)

NAMES = {
    "va": ("mse", "ccc", "ccc+mse"),
    "expr": ("ce", "weighted_ce", "focal", "adjusted_ce"),
    "au": ("bce", "weighted_bce", "focal", "mse", "asymmetric"),
}
EVERY = [(task, name) for task, names in NAMES.items() for name in names]


def index(expressions=(0, 0, 0, 1, None), au1=(1, 0, 0, None, 0)):
    empty = {name: pl.Series([None] * len(au1), dtype=pl.Int8) for name in ACTION_UNITS[1:]}
    return pl.DataFrame({"expression": expressions, "AU1": au1, **empty})


def losses(task="va", name="mse", **options):
    return TaskLosses(TASKS, index(), **{task: name}, **options)


def batch(n=16, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    va = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    au = rng.integers(0, 2, (n, 12)).astype(np.float32)
    expr = rng.integers(0, 8, n)
    for values, hole in ((va, np.nan), (au, np.nan), (expr, -1)):
        values[rng.random(values.shape) < missing] = hole
    targets = {"va": va, "expr": expr, "au": au}
    raw = {task: torch.from_numpy(rng.normal(size=(n, OUTPUTS[task]))).requires_grad_() for task in TASKS}
    return raw, {task: torch.from_numpy(value) for task, value in targets.items()}


def double_ccc(x, y):
    return 2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_nothing_labelled_is_zero_with_a_graph(task, name):
    raw, targets = batch(missing=1.0)
    loss = losses(task, name)(raw, targets)[task]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(raw[task].grad, torch.zeros_like(raw[task]))


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_missing_rows_change_nothing(task, name):
    raw, targets = batch(missing=0.5, seed=3)
    on_all = losses(task, name)(raw, targets)[task]
    labelled = targets[task] >= 0 if task == "expr" else ~torch.isnan(targets[task]).all(1)
    on_labelled = losses(task, name)(
        {t: v[labelled] for t, v in raw.items()}, {t: v[labelled] for t, v in targets.items()}
    )[task]
    assert on_all.item() == pytest.approx(on_labelled.item(), rel=1e-6)
    on_all.backward()
    assert torch.isfinite(raw[task].grad).all()
    assert not raw[task].grad[~labelled].any()


def test_ccc_loss_is_one_minus_the_population_ccc_of_each_values_own_rows():
    raw, targets = batch(64, missing=0.3, seed=1)
    x, y = raw["va"].detach().numpy(), targets["va"].numpy().astype(np.float64)
    values = [double_ccc(x[~np.isnan(y[:, i]), i], y[~np.isnan(y[:, i]), i]) for i in range(2)]
    assert ccc_loss(raw["va"], targets["va"].double()).item() == pytest.approx(1 - np.mean(values), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_ccc_loss_survives_single_and_constant_rows(rows):
    raw = torch.full((rows, 2), 0.25, requires_grad=True)
    loss = ccc_loss(raw, torch.full((rows, 2), 0.25))
    loss.backward()
    assert loss.item() == (0 if rows == 1 else 1)
    assert torch.isfinite(raw.grad).all()


def test_ccc_loss_is_zero_at_the_target_and_two_at_its_mirror():
    target = torch.linspace(-1, 1, 9).repeat(2, 1).T
    assert ccc_loss(target.clone(), target).item() == pytest.approx(0, abs=1e-6)
    assert ccc_loss(-target, target).item() == pytest.approx(2, abs=1e-6)


def test_one_missing_value_leaves_the_other_in():
    raw, target = torch.tensor([[0.5, 0.5], [0.0, 0.0]]), torch.tensor([[0.0, float("nan")], [0.0, 1.0]])
    assert mse(raw, target).item() == pytest.approx((0.25 + 0 + 1) / 3)


def test_weighted_cross_entropy_is_the_papers_mean_not_torchs():
    raw, targets = batch(32)
    weights = torch.arange(1.0, 9.0)
    values = F.cross_entropy(raw["expr"], targets["expr"], reduction="none")
    ours = cross_entropy(raw["expr"], targets["expr"], weights)
    assert ours.item() == pytest.approx((weights[targets["expr"]] * values).mean().item())
    torchs = F.cross_entropy(raw["expr"], targets["expr"], weight=weights.double())
    assert abs(ours.item() - torchs.item()) > 0.1


def test_class_weights_are_n_over_n_c():
    assert expression_weights(index()).tolist() == pytest.approx([4 / 3, 4, 0, 0, 0, 0, 0, 0])
    assert expression_weights(pl.DataFrame({"AU1": [1]})).tolist() == [0] * 8
    assert au_pos_weight(index()).tolist() == [3.0] + [1.0] * 11


def test_au_focal_weighs_a_positive_by_one_minus_p_and_a_negative_by_p():
    raw, target = torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    p = torch.sigmoid(raw)
    expected = (-(1 - p[0, 0]) * torch.log(p[0, 0]) - p[0, 1] * torch.log(1 - p[0, 1])) / 2
    assert au_focal(raw, target, 1.0).item() == pytest.approx(expected.item(), abs=1e-12)


def test_positive_weight_multiplies_positives_only():
    raw, target = torch.tensor([[0.3, 0.3]]), torch.tensor([[1.0, 0.0]])
    plain = F.binary_cross_entropy_with_logits(raw, target, reduction="none")
    weighted = binary_cross_entropy(raw, target, torch.tensor([5.0, 5.0]))
    assert weighted.item() == pytest.approx(((5 * plain[0, 0] + plain[0, 1]) / 2).item())


def test_label_smoothing_is_torchs():
    raw, targets = batch(8)
    ours = losses("expr", "ce", label_smoothing=0.1)(raw, targets)["expr"]
    torchs = F.cross_entropy(raw["expr"].float(), targets["expr"], label_smoothing=0.1)
    assert ours.item() == pytest.approx(torchs.item())


def test_total_is_the_weighted_sum():
    raw, targets = batch()
    module = losses(weights={"va": 2.0, "expr": 0.5})
    values = module(raw, targets)
    assert module.total(values).item() == pytest.approx((2 * values["va"] + 0.5 * values["expr"] + values["au"]).item())


def test_a_distribution_as_target_is_the_formula_and_a_one_hot_is_the_code():
    rng = np.random.default_rng(0)
    raw, weights = rng.normal(size=(6, 8)), rng.uniform(0.5, 2, 8)
    target = rng.dirichlet(np.ones(8), 6)
    log_p = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    expected = (-(target * log_p).sum(1) * (target @ weights))[:4].mean()
    holed = torch.from_numpy(np.where(np.arange(6)[:, None] < 4, target, np.nan))
    value = cross_entropy(torch.from_numpy(raw), holed, torch.from_numpy(weights))
    assert value.item() == pytest.approx(expected)
    codes = torch.tensor([0, 3, -1, 7, 7, 1])
    one_hot = torch.where(codes[:, None] < 0, torch.nan, F.one_hot(codes.clamp(min=0), 8).float())
    logits = torch.from_numpy(raw).float()
    assert cross_entropy(logits, one_hot, None, 0.1).item() == pytest.approx(
        cross_entropy(logits, codes, None, 0.1).item()
    )
    assert expression_focal(logits, one_hot, 2.0).item() == pytest.approx(expression_focal(logits, codes, 2.0).item())


def test_adjusted_logits_are_menons_formula_and_even_out_the_classes():
    rng = np.random.default_rng(0)
    raw, y, prior = rng.normal(size=(9, 8)), rng.integers(0, 8, 9), rng.dirichlet(np.ones(8))
    odds = prior * np.exp(raw)
    expected = -np.log(odds[np.arange(9), y] / odds.sum(1)).mean()
    loss = adjusted_cross_entropy(torch.tensor(raw), torch.tensor(y), torch.tensor(np.log(prior)))
    assert loss.item() == pytest.approx(expected)
    on_labelled = losses("expr", "adjusted_ce").log_prior
    torch.testing.assert_close(on_labelled, torch.tensor([0.75, 0.25] + [1.0] * 6).log())


def test_asymmetric_is_ridniks_formula_and_forgets_easy_negatives():
    rng = np.random.default_rng(0)
    raw, y = rng.normal(0, 2, (9, 12)), rng.integers(0, 2, (9, 12)).astype(float)
    y[0, 0] = np.nan
    p = 1 / (1 + np.exp(-raw))
    shifted = np.maximum(p - 0.05, 0)
    values = np.where(y == 1, -np.log(p), -(shifted**4) * np.log(1 - shifted))
    expected = values[~np.isnan(y)].mean()
    assert asymmetric(torch.tensor(raw), torch.tensor(y)).item() == pytest.approx(expected)
    easy = torch.full((1, 12), -4.0, requires_grad=True)
    asymmetric(easy, torch.zeros(1, 12)).backward()
    assert easy.grad.abs().max() == 0


def test_soft_expressions_count_where_a_row_has_none_of_its_own():
    soft = pl.DataFrame(
        {f"soft/{name.lower()}": [0.5 if i == 2 else 0.5 / 7] * 5 for i, name in enumerate(EXPRESSIONS)}
    )
    both = pl.concat([index(), soft], how="horizontal")
    counts = np.array([3, 1, 0, 0, 0, 0, 0, 0]) + np.where(np.arange(8) == 2, 0.5, 0.5 / 7)
    np.testing.assert_allclose(expression_weights(both), counts.sum() / counts, rtol=1e-6)
