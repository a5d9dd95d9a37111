"""Statistics of two sides against NumPy's, on draws that are written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scvitl.posterior import differential, pools

C = 1e-3  # pseudocount


class Written:
    """Shares (genes, draws) in place of what a decoder would make of draws."""

    def __init__(self, values):
        self.values = torch.tensor(values, dtype=torch.float32)
        self.hidden = torch.zeros(self.values.shape[1], 1)
        self.n_genes = len(self.values)

    def scale(self, genes=None):
        return self.values if genes is None else self.values[genes]


def written(*pairs):
    """Both sides of every pair, each drawn from a pool of its own."""
    values = [side for pair in pairs for side in pair]
    drawn = [pools.Pool(np.arange(2), (None,), side.shape[1]) for side in values]
    sides = [([(2 * i, drawn[2 * i].size)], [(2 * i + 1, drawn[2 * i + 1].size)]) for i in range(len(pairs))]
    return pools.Sides(pools.Plan(drawn, sides), Written(np.concatenate(values, axis=1)))


def shares(n_genes=7, n_draws=101, seed=0):
    """Two sides: the first genes go up, the last go down."""
    rng = np.random.default_rng(seed)
    fold = np.linspace(2, -2, n_genes)[:, None]
    first, second = rng.lognormal(-5, 0.7, (2, n_genes, n_draws)).astype(np.float32)
    return (first * 2 ** (fold / 2)).astype(np.float32), (second * 2 ** (-fold / 2)).astype(np.float32)


def change(*pairs, mean_counts=None, **options):
    counts = [(np.ones(len(a)), np.ones(len(a))) for a, _ in pairs] if mean_counts is None else mean_counts
    return differential.change(written(*pairs), mean_counts=counts, **{"pseudocounts": C, **options})


def log_ratio(a, b, offset):
    return np.log2(a.astype(float) + offset) - np.log2(b.astype(float) + offset)


@pytest.mark.parametrize("n_draws", [2, 3, 100, 101, 5000, 5001])
def test_log_fold_changes_are_those_of_the_paired_draws(n_draws):
    a, b = shares(n_draws=n_draws)
    (table,) = change((a, b))
    lfc = log_ratio(a, b, 1e-3 * C)
    for name, expected in (
        ("mean", lfc.mean(1)),
        ("median", np.median(lfc, axis=1)),
        ("std", lfc.std(1)),
        ("min", lfc.min(1)),
        ("max", lfc.max(1)),
    ):
        # float32
        np.testing.assert_allclose(table[f"lfc_{name}"], expected, atol=2e-5, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(table["scale1"], a.mean(1), rtol=1e-5)
    np.testing.assert_allclose(table["scale2"], b.mean(1), rtol=1e-5)


@pytest.mark.parametrize("delta", [0, 0.25, 1.5])
@pytest.mark.parametrize("test_mode", ["three", "two"])
def test_probabilities_count_the_draws_beyond_delta(delta, test_mode):
    a, b = shares(n_draws=400)
    (table,) = change((a, b), delta=delta, test_mode=test_mode)
    r = log_ratio(a, b, C)
    up, down = (r >= delta).mean(1), (r < -delta).mean(1)
    expected = np.maximum(up, down) if test_mode == "three" else up + down
    # one draw in 400 may lie on the threshold, as far as float32 can tell
    np.testing.assert_allclose(table["proba_up"], up, atol=1 / 400)
    np.testing.assert_allclose(table["proba_de"], expected, atol=1 / 400)
    np.testing.assert_allclose(table["proba_not_de"], 1 - table["proba_de"], atol=1e-12)
    p = table["proba_de"]
    np.testing.assert_allclose(table["bayes_factor"], np.log(p + 1e-8) - np.log(1 - p + 1e-8), atol=1e-6)
    assert np.all(table["delta"] == delta)
    assert np.all(table["pseudocounts"] == C)
    assert (table["proba_de"] <= 1).all()


def test_up_counts_from_delta_on_and_down_beyond_minus_delta():
    """Powers of two without a pseudocount to speak of: equality is exact."""
    b = np.full((1, 5), 0.125)
    a = b * np.array([[2, 1, 0.5, 4, 0.25]])
    (table,) = change((a, b), delta=1, pseudocounts=1e-30, test_mode="two")
    assert table["proba_up"][0] == pytest.approx(2 / 5)
    assert table["proba_de"][0] == pytest.approx(3 / 5)


def test_no_change_at_all():
    a = np.full((2, 50), 0.01)
    (table,) = change((a, a))
    for name in ("proba_de", "proba_up", "lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max"):
        assert (table[name] == 0).all(), name
    assert table["bayes_factor"] == pytest.approx(np.log(1e-8), abs=1e-6)


def test_draws_that_tie_have_the_median_of_numpy():
    rng = np.random.default_rng(3)
    for n_draws in (4, 5, 9, 10, 64):
        a = rng.integers(1, 4, (30, n_draws)).astype(float)
        b = np.ones_like(a)
        (table,) = change((a, b), pseudocounts=1e-20)
        np.testing.assert_allclose(table["lfc_median"], np.median(np.log2(a), axis=1), atol=1e-5)
        np.testing.assert_allclose(table["lfc_min"], np.log2(a).min(1), atol=1e-5)


def test_shares_that_vanish_leave_everything_finite():
    """The softmax can underflow to zero on either side."""
    a, b = shares()
    a[0], b[1], a[2], b[2] = 0, 0, 0, 0
    (table,) = change((a, b), pseudocounts=None)
    assert all(np.isfinite(values).all() for values in table.values())
    assert table["lfc_mean"][2] == 0
    assert table["lfc_mean"][0] < -10 < 10 < table["lfc_mean"][1]


def shortest(values, level):
    """The shortest interval between two draws with a share ``level`` of the draws between them, by looking at all."""
    values = np.sort(values)
    width = min(int(np.floor(level * len(values))), len(values) - 1)
    return min(
        ((values[i], values[i + width]) for i in range(len(values) - width)),
        key=lambda ends: ends[1] - ends[0],
    )


def test_credible_intervals_are_the_shortest():
    a, b = shares(n_draws=150)
    (table,) = change((a, b), cred_interval_lvls=[0.5, 0.95])
    lfc = log_ratio(a, b, 1e-3 * C)
    for level in (0.5, 0.95):
        expected = np.array([shortest(row, level) for row in lfc])
        for end, values in zip(("min", "max"), expected.T, strict=True):
            np.testing.assert_allclose(table[f"lfc_confidence_interval_{level}_{end}"], values, atol=1e-4)
    wide, narrow = ("lfc_confidence_interval_0.95", "lfc_confidence_interval_0.5")
    assert (
        table[f"{wide}_max"] - table[f"{wide}_min"] > table[f"{narrow}_max"] - table[f"{narrow}_min"]
    ).all()
    assert not any("confidence" in name for name in change((a, b))[0])


def test_credible_interval_of_a_skewed_gene_sits_where_the_draws_are():
    draws = np.sort(np.random.default_rng(0).exponential(size=2000))
    (table,) = change((2 ** draws[None], np.ones((1, 2000))), pseudocounts=1e-20, cred_interval_lvls=[0.8])
    # 80 % of an exponential: from 0 to log 5, not from 0.11 to 2.3
    assert table["lfc_confidence_interval_0.8_min"][0] < 0.05
    assert table["lfc_confidence_interval_0.8_max"][0] == pytest.approx(np.log(5), abs=0.12)


def expected_pseudocount(a, b, means1, means2):
    """SPEC: the 0.9 quantile, over genes next to absent, of the highest share; the larger side, by all genes."""
    levels = [
        np.quantile(side.max(1)[means < 0.01], 0.9) if (means < 0.01).any() else 1e-10
        for side, means in ((a, means1), (b, means2))
    ]
    return max(1e-10, max(levels) / len(a))


@pytest.mark.parametrize(
    "absent", [((), ()), ((1,), ()), ((), (2, 3, 5)), ((0, 6), (3,)), (range(7), range(7))]
)
def test_pseudocount_is_the_level_of_genes_next_to_absent(absent):
    a, b = shares()
    means = [np.full(7, 0.01), np.full(7, 3.0)]
    for side, genes in zip(means, absent, strict=True):
        side[list(genes)] = 0.0099
    (table,) = change((a, b), pseudocounts=None, mean_counts=[tuple(means)])
    expected = expected_pseudocount(a, b, *means)
    assert np.unique(table["pseudocounts"]) == pytest.approx([expected], rel=1e-5)
    np.testing.assert_allclose(table["lfc_mean"], log_ratio(a, b, 1e-3 * expected).mean(1), atol=1e-4)


def test_every_pair_has_its_own_pseudocount_and_delta():
    pairs = shares(seed=1), shares(seed=2)
    means = np.full(7, 0.001), np.ones(7)
    tables = change(*pairs, pseudocounts=None, delta="auto", mean_counts=[means, means[::-1]])
    alone = [
        change(pair, pseudocounts=None, delta="auto", mean_counts=[m])[0]
        for pair, m in zip(pairs, (means, means[::-1]), strict=True)
    ]
    for together, one in zip(tables, alone, strict=True):
        for name, values in one.items():
            np.testing.assert_allclose(together[name], values, rtol=1e-6, err_msg=name)
    assert tables[0]["pseudocounts"] != tables[1]["pseudocounts"]


def test_automatic_delta_lies_between_the_genes_that_change_and_the_others():
    rng = np.random.default_rng(0)
    fold = np.concatenate([rng.normal(0, 0.1, 180), rng.normal(2, 0.2, 10), rng.normal(-2, 0.2, 10)])
    b = rng.lognormal(-5, 0.3, (200, 300))
    a = b * 2 ** fold[:, None]
    (table,) = change((a, b), delta="auto", pseudocounts=1e-9)
    # 0.6 times the centres of the outer two of three normals, here 2
    assert np.unique(table["delta"]) == pytest.approx([1.2], abs=0.15)
    called = table["proba_de"] > 0.5
    assert called.tolist() == [False] * 180 + [True] * 20
    (still,) = change((b, rng.permuted(b, axis=1)), delta="auto", pseudocounts=1e-9)
    assert np.unique(still["delta"]) == [0.1]


def test_automatic_delta_needs_no_more_than_two_genes():
    a, b = shares(n_genes=2)
    (table,) = change((a, b), delta="auto")
    assert np.isfinite(table["delta"]).all()


def test_vanilla_asks_on_which_side_a_gene_is_higher():
    a, b = shares(n_draws=64)
    a[:, :5] = b[:, :5]
    (table,) = differential.vanilla(written((a, b)))
    assert list(table) == ["proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2"]
    p = (a > b).mean(1)
    np.testing.assert_allclose(table["proba_m1"], p, atol=1e-6)
    np.testing.assert_allclose(table["proba_m2"], 1 - p, atol=1e-6)
    np.testing.assert_allclose(table["bayes_factor"], np.log(p + 1e-8) - np.log(1 - p + 1e-8), atol=1e-5)
    np.testing.assert_allclose(table["scale1"], a.mean(1), rtol=1e-5)


@pytest.mark.parametrize("genes_together", [1, 2, 100])
def test_blocks_of_genes_do_not_show(genes_together, monkeypatch):
    pairs = shares(), shares(seed=5)[::-1]
    options = {"cred_interval_lvls": [0.9], "pseudocounts": None, "delta": "auto"}
    options["mean_counts"] = [(np.full(7, 0.001), np.full(7, 0.001))] * 2
    whole = change(*pairs, **options)
    monkeypatch.setattr(differential, "GENES_TOGETHER", 2)
    monkeypatch.setattr(pools, "KEPT_ENTRIES", 0)
    monkeypatch.setattr(pools, "BLOCK_ENTRIES", genes_together * 4 * 101)
    parts = change(*pairs, **options)
    for one, other in zip(whole, parts, strict=True):
        assert list(one) == list(other)
        for name, values in one.items():
            assert np.array_equal(values, other[name]), name
