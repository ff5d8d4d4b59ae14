"""What expressions, AUs and V-A imply of each other, and that both sides learn from it."""

import numpy as np
import polars as pl
import pytest
import torch

from training.test_gradient_balancing import batch, model
from training.test_trainer import config
from triaffect.data.index import load_index
from triaffect.data.predictions import save_predictions
from triaffect.inference.predict import predict
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, TASKS
from triaffect.training import trainer as training
from triaffect.training.dataset import training_rows
from triaffect.training.label_coupling import FRAMES, SPREAD, Coupling, counted, literature

HAPPY, ANGER = EXPRESSIONS.index("Happiness"), EXPRESSIONS.index("Anger")


def holes(n=6, **labelled):
    data = {"va": torch.full((n, 2), torch.nan), "expr": torch.full((n,), -1), "au": torch.full((n, 12), torch.nan)}
    return data | labelled


@pytest.fixture
def coupling(frames):
    return Coupling(TASKS, load_index(frames[0]), 1.0, 1.0, "literature")


def outputs(n=6):
    torch.manual_seed(0)
    return {task: torch.randn(n, k, requires_grad=True) for task, k in (("va", 2), ("expr", 8), ("au", 12))}


def test_the_counted_table_is_the_rate_of_each_class(frames):
    index = load_index(frames[0])
    aus, va = counted(index, TASKS)
    for code in range(8):
        rows = index.filter(pl.col("expression") == code)
        n = len(rows)
        au = (rows["AU4"].sum() + FRAMES * index["AU4"].mean()) / (n + FRAMES)
        assert aus[code, ACTION_UNITS.index("AU4")] == pytest.approx(au)
        mean = (rows["valence"].sum() + FRAMES * index["valence"].mean()) / (n + FRAMES)
        assert va[code, 0] == pytest.approx(mean)


def test_disjoint_labels_cannot_be_counted_and_say_so(frames):
    index = load_index(frames[0]).with_columns(pl.lit(None, pl.Int8).alias("expression"))
    with pytest.raises(InputError, match="literature"):
        counted(index, TASKS)
    aus, va = literature(index)
    assert aus[HAPPY, ACTION_UNITS.index("AU12")] == 0.95
    assert va[HAPPY, 0] > 0 > va[ANGER, 0]
    assert aus[-1, 0] == pytest.approx(np.clip(index["AU1"].mean(), 0.05, 0.95))


def test_the_posterior_is_bayes_rule_in_float64(coupling):
    rng = np.random.default_rng(0)
    au, va = rng.integers(0, 2, (6, 12)).astype(float), rng.uniform(-1, 1, (6, 2))
    au[rng.random(au.shape) < 0.3] = np.nan
    va[0] = np.nan
    data = holes(au=torch.tensor(au).float(), va=torch.tensor(va).float())
    data["au"][1], data["va"][1] = torch.nan, torch.nan
    au[1], va[1] = np.nan, np.nan
    result, labelled = coupling.posterior(data)
    table, mean, prior = (x.double().numpy() for x in (coupling.aus, coupling.va, coupling.prior))
    expected = np.log(np.tile(prior, (6, 1)))
    for i in range(6):
        for c in range(8):
            for k in range(12):
                if not np.isnan(au[i, k]):
                    expected[i, c] += np.log(table[c, k] if au[i, k] else 1 - table[c, k])
            if not np.isnan(va[i]).any():
                expected[i, c] -= ((va[i] - mean[c]) ** 2).sum() / 2 / SPREAD**2
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(result, expected, rtol=1e-4)
    assert labelled.tolist() == [True, False, True, True, True, True]


def test_a_smile_is_happy_and_happiness_smiles(coupling):
    smile = torch.zeros(12)
    for name in ("AU6", "AU12", "AU25"):
        smile[ACTION_UNITS.index(name)] = 1
    result, _ = coupling.posterior(holes(1, au=smile[None]))
    assert result.argmax() == HAPPY
    raw = outputs(1)
    losses = coupling.implied_label_losses(raw, holes(1, expr=torch.tensor([HAPPY])))
    assert losses["expr"] == 0  # it has a label of its own
    losses["au"].backward()
    pull = -raw["au"].grad[0]
    assert pull[ACTION_UNITS.index("AU12")] > 0 > pull[ACTION_UNITS.index("AU4")]


def test_co_annotation_fills_only_what_is_missing_and_nothing_from_nothing(coupling):
    full = batch(6)
    assert {t: v.item() for t, v in coupling.implied_label_losses(outputs(), full).items()} == dict.fromkeys(TASKS, 0)
    assert all(v == 0 for v in coupling.implied_label_losses(outputs(), holes()).values())


@pytest.mark.parametrize("task", ["au", "va"])
def test_matching_moves_both_heads_also_without_labels_and_rests_where_they_agree(coupling, task):
    raw = outputs()
    value = coupling.matching_losses(raw)[task]
    value.backward()
    assert raw["expr"].grad.abs().sum() > 0
    assert raw[task].grad.abs().sum() > 0
    expression = raw["expr"].softmax(1).detach()
    agreed = {"expr": raw["expr"], "au": torch.logit(expression @ coupling.aus), "va": expression @ coupling.va}
    assert coupling.matching_losses(agreed)[task].item() == pytest.approx(0, abs=1e-5)
    assert value > 0.01
    if task == "au":  # against the formula in float64
        p, q = torch.sigmoid(raw["au"]).double(), (expression @ coupling.aus).double()
        kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        assert value.item() == pytest.approx(kl.mean().item(), rel=1e-4)


def test_both_heads_of_a_model_learn_from_unlabelled_images(coupling):
    net, data = model(), {**batch(), **holes(8)}
    raw = net(data["image"])
    losses = {task: 0 * value.sum() for task, value in raw.items()}
    sum(coupling(losses, raw, data).values()).backward()
    assert all(p.grad.abs().sum() > 0 for head in net.heads.values() for p in head.parameters())


def test_soft_expressions_speak_for_themselves(coupling):
    soft = torch.full((2, 8), torch.nan)
    soft[0] = 1 / 8
    result, labelled = coupling.posterior(holes(2, expr=soft))
    torch.testing.assert_close(result[0], torch.full((8,), 1 / 8))
    assert labelled.tolist() == [True, False]


def test_a_run_on_thinned_labels_uses_unlabelled_images_too(frames, tmp_path):
    table = pl.read_parquet(frames[0])
    third = pl.int_range(pl.len()) % 3
    train = pl.col("split") == "train"
    holed = [
        pl.when(~train | (third == i)).then(pl.col(c)).alias(c)
        for i, task in enumerate(TASKS[:2])
        for c in LABEL_COLUMNS[task]
    ]
    nothing = [pl.when(~train).then(pl.col(c)).alias(c) for c in ACTION_UNITS]
    table.with_columns(holed + nothing).write_parquet(tmp_path / "index.parquet")
    data = (tmp_path / "index.parquet", frames[1])
    settings = config(data, coupling__matching=0.5, coupling__co_annotation=0.5, coupling__table="literature")
    assert len(training_rows(settings)[0]) == 48
    assert len(training_rows(config(data))[0]) == 32
    run = training.train(settings, tmp_path / "run", progress=False)
    assert pl.read_csv(run / "metrics.csv")["train/loss_au"].min() > 0


def test_coupling_needs_expressions(frames):
    with pytest.raises(InputError, match="expr"):
        config(frames, coupling__matching=1.0, model__tasks=["va", "au"])


def test_a_student_learns_from_its_teachers_where_labels_are_missing(frames, tmp_path):
    table = pl.read_parquet(frames[0])
    train = pl.col("split") == "train"
    holed = [pl.when(~train).then(pl.col(c)).alias(c) for task in ("expr", "au") for c in LABEL_COLUMNS[task]]
    table.with_columns(holed).write_parquet(tmp_path / "index.parquet")
    soft = predict(model(), load_index(frames[0], "train"), frames[1], workers=0, progress=False, device="cpu")
    save_predictions(soft, tmp_path / "soft.parquet")
    settings = config((tmp_path / "index.parquet", frames[1]), data__soft=[str(tmp_path / "soft.parquet")])
    run = training.train(settings, tmp_path / "run", progress=False)
    metrics = pl.read_csv(run / "metrics.csv")
    assert metrics["train/loss_expr"].min() > 0
    assert metrics["train/loss_au"].min() > 0
    assert metrics["val/expr"].is_finite().all()
