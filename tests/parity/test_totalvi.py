"""totalVI saved by scvi-tools, read by us: everything that follows from the weights agrees."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scvitl
from scvitl import store
from scvitl.io._weights import rename
from scvitl.models.blocks import kl_normal
from scvitl.tl._start import library_priors

pytestmark = [pytest.mark.usefixtures("means"), pytest.mark.classes("TOTALVI")]
WEIGHTS = (0.3, 1.0)
SIGNED = {"atol": 1e-6}  # of what may be a small difference of larger numbers


@pytest.fixture
def agree(tools):
    return tools.agree


@pytest.fixture
def drawn(monkeypatch):
    """scvi-tools draws, always the same numbers."""

    def rsample(self, shape=()):
        return self.loc + self.scale * torch.randn(self.loc.shape, generator=torch.Generator().manual_seed(5))

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)


def injected(pair):
    """A latent state for every cell, and a log library size where that is latent."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(pair.adata.n_obs, 5, generator=generator)
    library = 4 + torch.rand(pair.adata.n_obs, 1, generator=generator)
    return z, None if pair.theirs.module.use_observed_lib_size else library


def tensors_of(pair):
    return next(iter(pair.theirs._make_data_loader(pair.theirs.adata, batch_size=pair.adata.n_obs)))


def n_batch(pair):
    return pair.theirs.summary_stats.n_batch


@torch.inference_mode()
def outputs_of_theirs(pair, z, library, batch=None):
    module, tensors = pair.theirs.module, tensors_of(pair)
    inference = module.inference(**module._get_inference_input(tensors))
    given = {**inference, "z": module.encoder.z_transformation(z)}
    if library is not None:
        given["library_gene"] = library.exp()
    generative = module.generative(**module._get_generative_input(tensors, given), transform_batch=batch)
    return SimpleNamespace(
        inference=inference,
        losses={w: module.loss(tensors, inference, generative, kl_weight=w) for w in WEIGHTS},
        **generative,
    )


@torch.inference_mode()
def outputs_of_ours(pair, z, library, log_background, batch=None):
    module, cells = pair.model.module, pair.cells()
    posterior = module.encode(cells)
    library = posterior.library if library is None else library
    batch = cells.batch if batch is None else torch.full_like(cells.batch, batch)
    genes = module.generative(z, library, cells, batch=batch)
    mean, sd, times, mixing = module.decoder.proteins(*module.state(z, cells, batch))
    counts = module.protein_counts
    proteins = counts.expression(log_background.exp(), times, mixing, batch, cells.labels)
    return SimpleNamespace(
        posterior=posterior,
        genes=genes,
        proteins=proteins,
        back=(mean, sd),
        times=times,
        reconstruction_genes=-module.log_likelihood(cells.x, genes),
        reconstruction_proteins=-counts.log_likelihood(cells, proteins),
        kl_z=kl_normal(posterior.mean, posterior.variance),
        kl_l=module.kl_library(posterior, cells),
        kl_back=counts.kl(mean, sd, mixing, cells),
    )


def both(pair, batch=None):
    state = injected(pair)
    theirs = outputs_of_theirs(pair, *state, batch)
    return theirs, outputs_of_ours(pair, *state, theirs.log_pro_back_mean, batch)


def test_posterior(agree, pair):
    theirs, ours = both(pair)
    q, ql = theirs.inference["qz"], theirs.inference["ql"]
    agree(ours.posterior.mean, q.loc, **SIGNED)
    agree(ours.posterior.variance, q.scale**2)
    if pair.theirs.module.use_observed_lib_size:
        assert ours.posterior.library_variance is None
    else:
        agree(ours.posterior.library, ql.loc, **SIGNED)
        agree(ours.posterior.library_variance, ql.scale**2)


def average_efficiency(pair):
    """How well proteins are caught in the batches that have them, by geometric mean, (P): theirs leave it out."""
    theirs = pair.theirs.module.log_per_batch_efficiency.detach()
    there = torch.tensor(pair.model.schema.proteins.in_batch).T
    return torch.exp((theirs * there).sum(1) / there.sum(1))


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.usefixtures("drawn")
def test_parameters_of_the_counts(agree, pair, batch):
    batch = None if n_batch(pair) == 1 else batch
    theirs, ours = both(pair, batch)
    px, py = theirs.px_, theirs.py_
    agree(ours.genes.scale, px["scale"])
    agree(ours.genes.rate, px["rate"])
    agree(ours.genes.theta.expand_as(px["rate"]), px["r"].expand_as(px["rate"]))
    if pair.theirs.module.gene_likelihood == "zinb":
        agree(ours.genes.dropout, px["dropout"], **SIGNED)
    else:
        assert ours.genes.dropout is None
    agree(ours.back[0], py["back_alpha"], **SIGNED)
    agree(ours.back[1], py["back_beta"])
    agree(ours.times, py["fore_scale"])
    agree(ours.proteins.mixing, py["mixing"], **SIGNED)
    average = average_efficiency(pair)
    agree(ours.proteins.background, py["rate_back"] * average)
    agree(ours.proteins.foreground, py["rate_fore"] * average)
    agree(ours.proteins.theta.expand_as(py["mixing"]), py["r"].expand_as(py["mixing"]))
    agree(ours.proteins.efficiency, theirs.per_batch_efficiency / average)
    for mean, name in zip(ours.proteins.means, ("rate_back", "rate_fore"), strict=True):
        agree(mean, theirs.py_norm_[name])


@pytest.mark.usefixtures("drawn")
def test_loss(agree, pair):
    theirs, ours = both(pair)
    for weight, loss in theirs.losses.items():
        agree(ours.reconstruction_genes, loss.reconstruction_loss["reconst_loss_gene"])
        agree(ours.reconstruction_proteins, loss.reconstruction_loss["reconst_loss_protein"])
        agree(ours.kl_z, loss.kl_local["kl_div_z"])
        agree(torch.as_tensor(ours.kl_l).expand_as(ours.kl_z), loss.kl_local["kl_div_l_gene"])
        agree(ours.kl_back, loss.kl_local["kl_div_back_pro"])
        kl = ours.kl_z + ours.kl_back
        total = ours.reconstruction_genes + ours.kl_l + weight * (ours.reconstruction_proteins + kl)
        agree(total.mean(), loss.loss)


@torch.inference_mode()
@pytest.mark.parametrize("weight", WEIGHTS)
def test_loss_of_the_module(agree, pair, weight):
    _, _, theirs = pair.theirs.module(tensors_of(pair), loss_kwargs={"kl_weight": weight})
    ours = pair.model.module.loss(pair.cells(), kl_weight=weight)
    agree(ours.total, theirs.loss)
    agree(ours.reconstruction, sum(theirs.reconstruction_loss.values()))
    agree(ours.kl, sum(theirs.kl_local.values()))
    for name in ("gene", "protein"):
        metric = ours.metrics[f"reconstruction_loss_{name}"]
        agree(metric, theirs.reconstruction_loss[f"reconst_loss_{name}"])


def test_latent_space(agree, pair):
    mean, variance = pair.theirs.get_latent_representation(return_dist=True)
    ours = scvitl.get.latent(pair.adata, key="totalvi", return_dist=True)
    agree(ours[0], mean, **SIGNED)
    agree(ours[1], variance)
    if pair.theirs.module.latent_distribution == "normal":
        agree(pair.adata.obsm["X_totalvi"], pair.theirs.get_latent_representation(), **SIGNED)
    else:
        # A mean over draws, which differ.
        assert np.abs(pair.adata.obsm["X_totalvi"] - pair.theirs.get_latent_representation()).max() < 0.05


def test_scores(agree, pair):
    theirs = pair.theirs
    agree(
        scvitl.get.elbo(pair.adata, key="totalvi", return_mean=False),
        np.ravel(theirs.get_elbo(return_mean=False)),
    )
    if theirs.module.latent_distribution == "ln" or theirs.module.protein_batch_mask is not None:
        # There, scvi-tools takes the density at the softmax, and the prior of proteins that were not measured, too.
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.module.marginal_ll(tensors_of(pair), n_mc_samples=1)
    agree(scvitl.get.marginal_ll(pair.adata, key="totalvi", n_mc_samples=1), expected)


BATCHES = [None, "a", ["a", "c"]]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_proteins(agree, pair, batch):
    if batch is not None and n_batch(pair) == 1:
        return
    theirs, options = pair.theirs, {"transform_batch": batch}
    ours = {**options, "n_samples": 1}
    found = scvitl.get.protein_foreground(pair.adata, **ours)
    expected = theirs.get_protein_foreground_probability(**options)
    agree(found, expected, **SIGNED)  # theirs is 1 - p
    assert found.columns.tolist() == list(map(str, expected.columns))
    assert found.index.equals(expected.index)
    average = average_efficiency(pair).numpy()
    expected = theirs.get_normalized_expression(**options)[1] * average
    agree(scvitl.get.protein_expression(pair.adata, **ours), expected)
    names = [{}, {"include_protein_background": True}]
    # Over several batches, we scale the mean, and they take the mean of what is scaled.
    names += [] if isinstance(batch, list) else [{"scale_protein": True}]
    for more in names:
        _, expected = theirs.get_normalized_expression(**options, **more)
        expected = expected * average
        if "scale_protein" in more:
            expected = expected.div(expected.sum(1), axis=0)
        agree(scvitl.get.protein_expression(pair.adata, **ours, **more), expected)


def test_background_of_proteins(agree, pair):
    expected = pair.theirs.get_protein_background_mean(pair.theirs.adata, None, None)
    found = scvitl.get.protein_background(pair.adata, transform_batch=None, n_samples=1)
    agree(found, expected * average_efficiency(pair).numpy())


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_genes(agree, pair, batch):
    if batch is not None and n_batch(pair) == 1:
        return
    theirs = pair.theirs
    for library_size in (1, "latent"):
        options = {"transform_batch": batch, "library_size": library_size}
        expected, _ = theirs.get_normalized_expression(**options)
        found = scvitl.get.normalized_expression(pair.adata, key="totalvi", **options)
        agree(found, expected)
        assert found.index.equals(expected.index)
        assert found.columns.equals(expected.columns)


def test_a_library_size_for_several_batches(pair):
    """There, the sum over batches is scaled anew with every batch."""
    if n_batch(pair) == 1 or pair.theirs.module.use_size_factor_key:
        return
    options = {"transform_batch": ["a", "b"], "library_size": 100}
    expected, _ = pair.theirs.get_normalized_expression(**options)
    found = scvitl.get.normalized_expression(pair.adata, key="totalvi", **options)
    np.testing.assert_allclose(found.sum(axis=1), 100, rtol=1e-5)
    np.testing.assert_allclose(expected.sum(axis=1), 5050, rtol=1e-5)


def test_library_sizes(agree, pair):
    theirs = pair.theirs.get_latent_library_size(give_mean=not pair.theirs.module.use_observed_lib_size)
    ours = scvitl.get.latent_library_size(pair.adata, key="totalvi")
    if not pair.theirs.module.use_size_factor_key:
        agree(ours, theirs)


def test_a_seed_gives_the_initial_weights_of_scvi_tools(agree, pair):
    theirs = rename(pair.initial)
    given = {name: torch.from_numpy(t) for name, t in theirs.items() if name.startswith("library_log")}
    for name in ("background_mean", "background_log_sd"):
        given[name.replace("log_", "")] = torch.from_numpy(theirs[f"protein_counts.{name}"])
    given["background_sd"] = given["background_sd"].exp()
    empirical = pair.theirs.init_params_["non_kwargs"]["empirical_protein_background_prior"]
    if not (empirical or pair.theirs.summary_stats.n_proteins > 10):
        given = {name: tensor for name, tensor in given.items() if name.startswith("library")}
    ours = store.build(pair.model.params, pair.model.schema, random_state=3, **given)
    for name, tensor in ours.state_dict().items():
        if name == "protein_counts.background_log_sd":
            agree(tensor, theirs[name], **SIGNED)
        elif not name.endswith("num_batches_tracked"):
            assert np.array_equal(tensor, theirs[name]), name


def test_priors_of_the_library_size(agree, pair):
    if pair.theirs.module.use_observed_lib_size:
        return
    data = store.load(pair.adata, pair.model, key="totalvi")
    for name, prior in library_priors(data, pair.model.schema).items():
        agree(prior, pair.initial[name])


def test_proteins_that_were_not_measured(pair):
    """The mask of scvi-tools is ours."""
    theirs, ours = pair.theirs, pair.model.schema.proteins
    assert list(ours.names) == list(map(str, theirs.protein_state_registry.column_names))
    mask = theirs.module.protein_batch_mask
    assert ours.complete == (mask is None)
    for code, measured in enumerate(ours.measured):
        assert mask is None or np.array_equal(np.ravel(mask[str(code)]), measured)
    data = store.load(pair.adata, pair.model, key="totalvi")
    for code, measured in enumerate(ours.in_batch):
        assert mask is None or np.array_equal(data.proteins[data.batch == code].sum(0) > 0, measured)


def test_a_minified_model(agree, scvi, tools, tmp_path):
    """The weights are in the file; what they need are the cells with their counts."""
    adata = tools.cells()
    columns = {"batch_key": "batch", "protein_expression_obsm_key": "missing"}
    theirs = tools.make(scvi, adata.copy(), columns, {}, name="TOTALVI")
    tools.shake(theirs.module)
    theirs.module.eval()
    theirs.is_trained_ = True
    mean, variance = theirs.get_latent_representation(return_dist=True)
    theirs.adata.obsm.update({"X_latent_qzm": mean, "X_latent_qzv": variance})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.minify_adata()
        theirs.save(tmp_path / "m")
    scvitl.io.read_scvi_tools(tmp_path / "m", adata)
    agree(adata.obsm["X_totalvi"], mean, **SIGNED)
    with pytest.raises(ValueError, match="minified adata: its counts are gone"):
        scvitl.io.read_scvi_tools(tmp_path / "m", theirs.adata)


def test_a_model_of_modalities(agree, scvi, tools, tmp_path):
    adata = tools.cells()
    table = adata.obsm["missing"]
    columns = {"batch_key": "batch", "categorical_covariate_keys": ["donor"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata = pytest.importorskip("mudata")
        proteins = ad.AnnData(table.to_numpy(np.float32), adata.obs[[]], pd.DataFrame(index=table.columns))
        genes = ad.AnnData(adata.X, adata.obs, adata.var)
        both = mudata.MuData({"genes": genes, "adt": proteins})
        places = {"rna_layer": "genes", "protein_layer": "adt", **dict.fromkeys(columns, "genes")}
        scvi.model.TOTALVI.setup_mudata(both, **columns, modalities=places)
        theirs = scvi.model.TOTALVI(both, n_hidden=16, n_latent=5)
        tools.shake(theirs.module)
        tools.save(theirs, tmp_path)
        expected = theirs.get_latent_representation()
        mdata = mudata.MuData({"genes": genes.copy(), "adt": proteins.copy()})
    with pytest.raises(KeyError, match=r"'protein_expression'.*which is not there"):
        scvitl.io.read_scvi_tools(tmp_path, adata)
    adata.obsm["protein_expression"] = table
    for cells in (adata, mdata):
        scvitl.io.read_scvi_tools(tmp_path, cells)
        agree(cells.obsm["X_totalvi"], expected, **SIGNED)
        schema = scvitl.get.model(cells, key="totalvi").schema
        assert schema.genes == tuple(adata.var_names)
        assert schema.proteins.names == tuple(table.columns)
        mask = theirs.module.protein_batch_mask
        assert all(np.array_equal(mask[str(i)], m) for i, m in enumerate(schema.proteins.measured))


def test_a_converted_file(scvi, tools, real_data, tmp_path):
    """Converting gives it efficiencies of zero, and scvi-tools then reads it as a model of today."""
    folder, rng = real_data / "models" / "totalvi_0.8.0_legacy", np.random.default_rng(0)
    names = [str(i) for i in range(100)]
    adata = ad.AnnData(rng.poisson(2, (50, 100)).astype(np.float32), var=pd.DataFrame(index=names))
    adata.obs["batch"] = rng.choice(["batch_0", "batch_1"], 50)
    adata.obsm["protein_expression"] = pd.DataFrame(rng.poisson(9, (50, 100)), adata.obs_names, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.TOTALVI.convert_legacy_save(folder, tmp_path / "converted")
        there = adata.copy()
        there.obsm["protein_expression"] = there.obsm["protein_expression"].to_numpy()
        theirs = scvi.model.TOTALVI.load(tmp_path / "converted", there, accelerator="cpu")
        theirs.save(tmp_path / "again")
    assert theirs.module.decoder.activation_function_bg(torch.tensor(2.0)) == torch.tensor(2.0).exp()
    scvitl.io.read_scvi_tools(folder, adata)
    for path in (tmp_path / "converted", tmp_path / "again"):
        copy = scvitl.io.read_scvi_tools(path, adata, copy=True)
        assert np.array_equal(copy.obsm["X_totalvi"], adata.obsm["X_totalvi"])
    assert np.abs(adata.obsm["X_totalvi"] - theirs.get_latent_representation()).max() > 0.1
    model = scvitl.get.model(adata, key="totalvi")
    model.module.normalize_counts = True
    tools.agree(scvitl.get.latent(adata, model=model), theirs.get_latent_representation(), **SIGNED)
