"""LDVAE: scVI with a linear decoder (Svensson et al., Bioinformatics 2020, doi 10.1093/bioinformatics/btaa169).

As in scVI, but the share of each gene is

    rho_n = softmax(BatchNorm(W z_n + V s_n))        one weight per gene and latent dimension

with s_n the covariates of the cell. What W does to a gene, batch norm taken in, is its loading. Shapes: B cells, G genes,
D latent, c covariates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Encoder, Layer, append
from .decoder import Decoder
from .vae import VAE


class LinearDecoder(Decoder):
    """From the latent state and the covariates to numbers per gene, by one linear map for each head.

    Its hidden units are what it is given: latent state and covariates side by side.
    """

    def __init__(self, n_in: int, n_genes: int, *, softmax: bool, heads: set[str], **layer) -> None:
        nn.Module.__init__(self)
        self.softmax, self.n_hidden, self.n_genes = softmax, n_in, n_genes
        built = {
            name: Layer(n_in, n_genes, dropout_rate=0, use_activation=False, **layer)
            for name in ("scale", "dropout", "dispersion")
        }
        self.heads = nn.ModuleDict({name: head for name, head in built.items() if name in heads})

    def forward(self, z: Tensor, covariates: Tensor) -> Tensor:
        return append(z, covariates)  # (..., B, D + c)

    def affine(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight (G, D + c) and bias (G) with batch norm taken in, as it is after training."""
        layer = self.heads[name]
        weight, norm = layer.linear.weight, layer.batch_norm
        bias = weight.new_zeros(len(weight)) if layer.linear.bias is None else layer.linear.bias
        if norm is None:
            return weight, bias
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return factor[:, None] * weight, norm.bias + factor * (bias - norm.running_mean)

    def head(self, name: str, h: Tensor, genes: Tensor | None = None) -> Tensor:
        """Output of one head for all genes, (..., B, G), or for those at the positions ``genes``."""
        # In training, batch norm takes its mean and variance from the minibatch.
        return self.heads[name](h) if self.training else super().head(name, h, genes)


class LDVAE(VAE):
    """LDVAE; the arguments are those of `scvitl.tl.ldvae`, with sizes in place of names of columns."""

    def __init__(
        self,
        n_genes: int,
        *,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers_encoder: int = 1,
        dropout_rate: float = 0.1,
        gene_likelihood: str = "nb",
        use_batch_norm: bool = True,
        bias: bool = False,
        use_observed_lib_size: bool = False,
        **vae,
    ) -> None:
        encoder = {"n_hidden": n_hidden, "dropout_rate": dropout_rate}
        # As in scvi-tools, a whole scVI is drawn before its networks are replaced, so that a seed gives equal weights.
        super().__init__(
            n_genes,
            n_latent=n_latent,
            n_layers=n_layers_encoder,
            gene_likelihood=gene_likelihood,
            use_observed_lib_size=use_observed_lib_size,
            **encoder,
            **vae,
        )
        self.z_encoder = Encoder(n_genes, n_latent, n_layers=n_layers_encoder, **encoder)
        l_encoder = Encoder(n_genes, 1, n_layers=1, **encoder)
        self.l_encoder = l_encoder if self.latent_library else None
        self.n_latent = n_latent
        self.decoder = LinearDecoder(
            self.decoder.hidden.layers[0].linear.in_features,
            n_genes,
            softmax=self.decoder.softmax,
            heads=set(self.decoder.heads),
            use_batch_norm=use_batch_norm,
            bias=bias,
        )

    def loadings(self) -> Tensor:
        """Change of a gene's logit per unit of each latent dimension, (G, D)."""
        return self.decoder.affine("scale")[0][:, : self.n_latent]

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Turn the latent space by ``rotation`` (D, D), an orthogonal matrix: states z become z @ rotation.

        What is decoded from a state stays as it is. So do posterior means, but of the variances, which are those of a
        diagonal normal, the new ones are geometric means of the old: exact where axes only change places or signs.
        """
        rotation = rotation.to(self.z_encoder.mean.weight)
        for part, turned in (("mean", rotation.T), ("variance", rotation.T**2)):
            linear = getattr(self.z_encoder, part)
            linear.weight.copy_(turned @ linear.weight)
            linear.bias.copy_(turned @ linear.bias)
        for head in self.decoder.heads.values():
            columns = head.linear.weight[:, : self.n_latent]
            columns.copy_(columns @ rotation)
