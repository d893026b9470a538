"""Slow, literal versions of the paper's formulas in dense arithmetic, written from the paper and the facts about the
official code; the package's fast versions are tested against these."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


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


def softmax_attention(q, k, v):
    """Attention whose weights are products of a softmax of the query over channels and of keys over patches, scaled."""
    T, c = q.shape
    out = torch.zeros_like(v)
    for t in range(T):
        for s in range(T):
            weight = sum(q[t].exp()[i] / q[t].exp().sum() * k[s, i].exp() / k[:, i].exp().sum() for i in range(c))
            out[t] += weight / math.sqrt(c) * v[s]
    return out


def sliding_probabilities(segmenter, image, short_side, window, stride):
    """Segmenter's sliding windows, all at pixel resolution: softmaxed, added up, divided by their number, resized."""
    H, W = image.shape[:2]
    short = max(short_side, window)
    h, w = (short, round(W * short / H)) if H < W else (round(H * short / W), short)
    resized = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    total, count = None, torch.zeros(h, w)
    for top in [*[y for y in range(0, h, stride) if y < h - window], h - window]:
        for left in [*[x for x in range(0, w, stride) if x < w - window], w - window]:
            cut = resized[top : top + window, left : left + window]
            pixels = torch.tensor(cut[None]).permute(0, 3, 1, 2).float() / 255
            levels = segmenter.backbone(pixels)
            covered = [segmenter.backbone.patch_size * side for side in levels.shape[1:3]]
            padding = (0, covered[1] - window, 0, covered[0] - window)
            padded = F.pad(pixels, padding, mode="replicate")
            colours = F.interpolate(padded, levels.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
            logits = segmenter.head.image_logits(levels, colours.half().float()).permute(0, 3, 1, 2)
            up = F.interpolate(logits, covered, mode="bilinear")[0, :, :window, :window]
            if total is None:
                total = torch.zeros(len(up), h, w)
            total[:, top : top + window, left : left + window] += (up / segmenter.head.softmax_temperature).softmax(0)
            count[top : top + window, left : left + window] += 1
    return F.interpolate((total / count)[None], (H, W), mode="bilinear")[0].numpy()


def mean_field(probabilities, image, *, iterations=10, clip=1e-5):
    """Kraehenbuehl and Koltun's updates with whole kernel matrices, symmetrically normalised: ``(K, H, W)`` to Q."""
    K, H, W = probabilities.shape
    y, x = np.indices((H, W)).reshape(2, -1)
    position, colour = np.stack([x, y], axis=1).astype(float), image.reshape(-1, 3).astype(float)
    kernels = []
    for weight, features in ((3.0, position), (4.0, np.concatenate([position / 67, colour / 3], axis=1))):
        k = np.exp(-((features[:, None] - features[None]) ** 2).sum(axis=-1) / 2)
        scale = 1 / np.sqrt(k.sum(axis=1))
        kernels.append(weight * scale[:, None] * k * scale[None, :])
    energy = -np.log(probabilities.reshape(K, -1).astype(float).clip(clip, 1))
    Q = np.exp(-energy)
    Q /= Q.sum(axis=0)
    for _ in range(iterations):
        Q = np.exp(-energy + sum(Q @ kernel for kernel in kernels))
        Q /= Q.sum(axis=0)
    return Q.reshape(K, H, W)
