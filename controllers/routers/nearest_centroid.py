"""The structure of the nearest k-means centroid of pooled hidden states: kinds of text that nobody named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, check_least
from plasticity_env.common.packages import require
from plasticity_env.dynamic.prefix import PrefixView


class NearestCentroid:
    """Picks by the nearest centroid of the prefix's pooled hidden states, as IG-Pruning does (Qiao et al. 2025).

    Args:
        centroids: (k, 2 E) centroids of `PrefixView.pooled`.
        structures: Numbers of the structures that belong to them.

    Raises:
        InputError: Not one structure for each centroid.
    """

    prefix_structure = 0

    def __init__(self, centroids: Tensor, structures: Sequence[int]) -> None:
        if len(centroids) != len(structures) or not len(structures):
            raise InputError(
                f"there are {len(centroids)} centroids and {len(structures)} structures: give one structure for each"
            )
        self.centroids, self.structures = centroids.double(), torch.tensor(list(structures))

    @property
    def flops(self) -> float:
        """FLOPs of the distances, once a text."""
        return 3.0 * self.centroids.numel()

    def pick(self, view: PrefixView) -> Tensor:
        """(B,) numbers of structures."""
        return self.structures[self.nearest(view.pooled)]

    def nearest(self, pooled: Tensor) -> Tensor:
        """(B,) numbers of the centroids nearest to (B, 2 E) pooled hidden states."""
        return torch.cdist(pooled.double().cpu(), self.centroids).argmin(1)


def k_means(pooled: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """(clusters, F) centroids of (n, F) rows.

    Raises:
        InputError: Fewer rows than clusters, or scikit-learn is not installed.
    """
    require("sklearn", "dynamic")
    from sklearn.cluster import KMeans

    if check_least("clusters", clusters, 1) > len(pooled):
        raise InputError(f"{len(pooled)} texts are too few for {clusters} clusters: ask for fewer, or give more texts")
    found = KMeans(clusters, n_init=10, random_state=seed).fit(pooled.double().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_)
