"""Weights against float64 formulas, combined gradients against torchjd on plain matrices, and the default as it was."""

import math

import numpy as np
import polars as pl
import pytest
import torch
import torchjd.aggregation as torchjd
from scipy.optimize import minimize

from training.test_trainer import config
from triaffect.data.index import load_index
from triaffect.labels import TASKS
from triaffect.training import trainer as training
from triaffect.training.gradient_balancing import GRADIENT_METHODS, Balancing, dwa_weights, make_weighting
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel
from triaffect.training.module import AffectTraining

LOSSES = {"va": 0.7, "expr": 1.9, "au": 0.2}


def tensors(values=LOSSES):
    return {task: torch.tensor(value, requires_grad=True) for task, value in values.items()}


def batch(n=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=g),
        "row": torch.arange(n),
        "va": torch.rand(n, 2, generator=g) * 2 - 1,
        "expr": torch.randint(0, 8, (n,), generator=g),
        "au": torch.randint(0, 2, (n, 12), generator=g).float(),
    }


def model():
    torch.manual_seed(0)
    return AffectModel("test_resnet", size=32).train()


def gradient(parts):
    return torch.cat([p.grad.flatten() for p in parts])


def test_uncertainty_is_kendalls_formula():
    balancing = Balancing(TASKS, {"va": 1.0, "expr": 0.5, "au": 1.0}, "uncertainty")
    s = np.array([0.3, -0.8, 1.1])
    with torch.no_grad():
        balancing.log_variance.copy_(torch.tensor(s))
    losses = tensors()
    total = balancing.total(losses)
    sigma2, value = np.exp(s), np.array([0.7, 0.5 * 1.9, 0.2])
    expected = (value / (sigma2 * [2, 1, 1]) + np.log(np.sqrt(sigma2))).sum()
    assert total.item() == pytest.approx(expected, rel=1e-6)
    total.backward()
    np.testing.assert_allclose(balancing.log_variance.grad, 0.5 - value / (sigma2 * [2, 1, 1]), rtol=1e-5)
    # Without a label there is nothing to be certain of.
    balancing.zero_grad()
    balancing.total(tensors({**LOSSES, "va": 0.0})).backward()
    assert balancing.log_variance.grad[0] == 0


def test_dwa_is_the_formula_and_waits_two_epochs():
    history = [{f"train/loss_{t}": v for t, v in zip(TASKS, row, strict=True)} for row in ((2, 4, 1), (1, 3, 1.5))]
    pace = np.array([1 / 2, 3 / 4, 1.5])
    expected = 3 * np.exp(pace / 2) / np.exp(pace / 2).sum()
    np.testing.assert_allclose(dwa_weights(history, TASKS), expected, rtol=1e-12)
    assert dwa_weights(history[:1], TASKS) == [1.0] * 3
    balancing = Balancing(TASKS, dict.fromkeys(TASKS, 1.0), "dwa")
    assert balancing.total(tensors(), history).item() == pytest.approx(expected @ list(LOSSES.values()), rel=1e-6)


def test_the_projection_onto_the_cone_is_the_quadratic_programs():
    project = make_weighting("upgrad").projector
    rng = np.random.default_rng(0)
    for _ in range(20):
        jacobian = rng.normal(size=(3, 5)) + rng.normal(size=(1, 5))
        gram = jacobian @ jacobian.T
        u = rng.random(3)
        result = project(torch.tensor(u[None]), torch.tensor(gram))[0].numpy()
        bounds = [(low, None) for low in u]
        best = minimize(lambda v, g=gram: v @ g @ v, u + 0.1, jac=lambda v, g=gram: 2 * g @ v, bounds=bounds)
        assert (result >= u - 1e-9).all()
        assert result @ gram @ result == pytest.approx(best.fun, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("at", ["features", "weights"])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_the_backbone_gets_the_combined_gradient_and_the_heads_their_own(frames, method, at):
    settings = config(frames, balancing__method=method, balancing__at=at)
    losses = TaskLosses(TASKS, load_index(frames[0]), **vars(settings.losses))
    net, data = model(), batch()
    torch.manual_seed(1)
    AffectTraining(net, settings, load_index(frames[0])).batch_loss(data, (0,))[0].backward()
    result, heads = gradient(net.backbone.parameters()), gradient(net.heads.parameters())

    gradients, head_gradients = [], 0
    features = None
    for task in TASKS:  # one plain backward pass a task
        net = model()
        features = net.features(data["image"])
        features.retain_grad()
        losses(net.predict_from_features(features), data)[task].backward()
        net.heads.requires_grad_(True)
        for p in net.heads.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients.append((gradient(net.backbone.parameters()), features.grad.flatten()))
        head_gradients = head_gradients + gradient(net.heads.parameters())
    rows = torch.stack([pair[at == "features"] for pair in gradients])
    torch.manual_seed(1)  # PCGrad takes the tasks in random order
    weights = make_weighting(method)(rows @ rows.T)
    expected = sum(w * pair[0] for w, pair in zip(weights, gradients, strict=True))
    torch.testing.assert_close(result, expected, rtol=1e-2, atol=2e-3 * float(expected.abs().max()))
    torch.testing.assert_close(heads, head_gradients, rtol=1e-4, atol=1e-6)


def test_pcgrad_takes_away_what_opposes():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    weights = make_weighting("pcgrad")(rows @ rows.T)
    expected = torchjd.PCGrad()(rows)
    torch.testing.assert_close(weights @ rows, expected)
    assert (rows @ expected >= -1e-6).all()


def test_by_default_a_step_is_the_plain_sum_bit_for_bit(frames):
    settings = config(frames)
    losses = TaskLosses(TASKS, load_index(frames[0]), **vars(settings.losses))
    data, trained, plain_model = batch(), model(), model()
    total, values = AffectTraining(trained, settings, load_index(frames[0])).batch_loss(data, (0,))
    total.backward()
    gradients = losses(plain_model(data["image"]), data)
    plain = losses.total(gradients)
    plain.backward()
    assert torch.equal(values, torch.stack([plain, *gradients.values()]))
    assert torch.equal(gradient(trained.parameters()), gradient(plain_model.parameters()))


def test_a_task_without_labels_is_no_part_of_the_combination(frames):
    data = batch()
    data["expr"] = torch.full((8,), -1)
    for method in GRADIENT_METHODS:
        settings = config(frames, balancing__method=method)
        net = model()
        AffectTraining(net, settings, load_index(frames[0])).batch_loss(data, (0,))[0].backward()
        result = gradient(net.backbone.parameters())
        assert torch.isfinite(result).all()
        assert result.abs().sum() > 0


def test_cosines_are_the_gradients_and_opposite_tasks_show():
    balancing = Balancing(TASKS, dict.fromkeys(TASKS, 1.0))
    features = torch.randn(4, 5, requires_grad=True)
    direction = torch.randn(4, 5)
    losses = {"va": (features * direction).sum(), "expr": (-2 * features * direction).sum(), "au": 0 * features.sum()}
    balancing.gradients(losses, features, features, [])
    result = balancing.pop_cosines()
    assert result["train/cosine_va_expr"] == pytest.approx(-1)
    assert math.isnan(result["train/cosine_va_au"])
    assert balancing.pop_cosines() == {}


@pytest.mark.parametrize("method", ["uncertainty", "dwa", "upgrad"])
def test_runs_learn_log_their_conflict_and_resume(frames, tmp_path, method):
    settings = config(frames, balancing__method=method, balancing__conflict=True, training__epochs=3)
    run = training.train(settings, tmp_path / "run", progress=False)
    table = pl.read_csv(run / "metrics.csv")
    assert table["val/total"].is_finite().all()
    assert table["train/cosine_va_expr"].is_between(-1, 1).all()
    assert (run / "curves.png").exists()
