"""Slow, literal versions of the paper's formulas in dense arithmetic, written from the paper and the facts about the
official code; the package's fast versions are tested against these."""

import math

import torch
import torch.nn.functional as F


def dense_feature_graph(features, neighbors):
    """Eq. 2 row by row: self excluded, negative cosines 0, (A + A^T) / 2."""
    N = len(features)
    A = torch.zeros(N, N)
    for u in range(N):
        cosines = torch.stack([F.cosine_similarity(features[u], features[v], dim=0) for v in range(N)])
        cosines[u] = -math.inf
        for v in cosines.argsort(descending=True)[:neighbors]:
            A[u, v] = max(cosines[v].item(), 0.0)
    return (A + A.T) / 2


def dense_pixel_graph(colours, neighbors, coordinate_weights):
    """Eq. 3 patch by patch: two searches in each image, joined by OR in both directions."""
    M, h, w, _ = colours.shape
    A = torch.zeros(M * h * w, M * h * w)
    for image in range(M):
        for k, weight in zip(neighbors, coordinate_weights, strict=True):
            points = [
                torch.cat([colours[image, y, x], weight * torch.tensor([x / (w - 1), y / (h - 1)])])
                for y in range(h)
                for x in range(w)
            ]
            for u, here in enumerate(points):
                distances = torch.stack([(here - there).norm() for there in points])
                distances[u] = math.inf
                for v in distances.argsort()[:k]:
                    A[image * h * w + u, image * h * w + v] = A[image * h * w + v, image * h * w + u] = 1.0
    return A


def dense_normalized_adjacency(A):
    scale = A.sum(1).rsqrt()
    return scale[:, None] * A * scale[None, :]


def official_loss(raw_psi, kernel, *, weight, t):
    """The official code's loss of unnormalised outputs: columns of norm sqrt(t), sums over j and i<j, over K."""
    K = raw_psi.shape[1]
    psi = raw_psi / raw_psi.norm(dim=0).clamp_min(1.0) * math.sqrt(t)
    loss = torch.zeros(())
    for j in range(K):
        loss = loss - psi[:, j] @ kernel @ psi[:, j] / K
        for i in range(j):
            loss = loss + weight * (psi[:, i].detach() @ kernel @ psi[:, j]) ** 2 / K
    return loss


def softmax_free_attention(q, k, v):
    """Attention with weights phi(q)^T phi(k), phi = elu + 1, normalised over keys; q, k, v: (T, c)."""
    phi_q, phi_k = F.elu(q) + 1, F.elu(k) + 1
    out = torch.zeros_like(v)
    for t in range(len(q)):
        weights = torch.stack([phi_q[t] @ phi_k[s] for s in range(len(k))])
        out[t] = (weights / weights.sum()) @ v
    return out
