"""Numbers that keep likelihoods finite, in compiled loops and in the plain formulas of `scvitl.likelihoods` alike."""

from __future__ import annotations

EPS = 1e-8  # keeps logarithms finite where the softmax underflows to a mean of zero
# Of dropout. Beyond it counts are lost, or kept, with certainty anyway; up to it, e^80 fits float32, and so does a product of
# two p(0).
MAX_LOGIT = 40.0


# stamp a7a9bea6615e666d
