"""Cross entropy and Lovasz-Softmax against plain loops; rows without labels."""

from __future__ import annotations

import pytest
import torch

from zoo.losses.classification import cross_entropy
from zoo.losses.lovasz import lovasz_softmax


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def target() -> torch.Tensor:
    labels = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(1))  # class 4 is absent
    labels[::7] = -1
    return labels


def test_lovasz_is_the_jaccard_loss_where_probabilities_are_certain(target: torch.Tensor) -> None:
    guess = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(2))
    loss = lovasz_softmax(torch.nn.functional.one_hot(guess, 5) * 200.0, target)
    valid = target >= 0
    losses = []
    for label in range(4):
        a, b = guess[valid] == label, target[valid] == label
        losses.append(1 - float((a & b).sum()) / float((a | b).sum()))
    assert float(loss) == pytest.approx(sum(losses) / 4, abs=1e-6)


def test_smoothed_weighted_cross_entropy_by_its_formula(logits: torch.Tensor, target: torch.Tensor) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    loss = cross_entropy(logits, target, class_weights=weights, label_smoothing=0.2)
    total, norm = 0.0, 0.0
    for row, label in zip(logits.log_softmax(1).detach(), target.tolist(), strict=True):
        if label >= 0:
            total += float(-0.8 * weights[label] * row[label] - 0.2 / 5 * (weights * row).sum())
            norm += float(weights[label])
    assert loss.item() == pytest.approx(total / norm, rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, lovasz_softmax])
def test_without_a_label_the_loss_is_zero_with_a_gradient(loss) -> None:
    for rows in (0, 3):
        logits = torch.zeros(rows, 4, requires_grad=True)
        value = loss(logits, torch.full((rows,), -1))
        value.backward()
        assert float(value) == 0
        assert torch.equal(logits.grad, torch.zeros(rows, 4))


@pytest.mark.parametrize("loss", [cross_entropy, lovasz_softmax])
def test_ignored_rows_do_not_count(loss, logits: torch.Tensor, target: torch.Tensor) -> None:
    valid = target >= 0
    torch.testing.assert_close(loss(logits, target), loss(logits[valid], target[valid]))


@pytest.mark.parametrize("loss", [cross_entropy, lovasz_softmax])
def test_bad_labels(loss) -> None:
    with pytest.raises(ValueError, match="class list"):
        loss(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="shape"):
        loss(torch.zeros(2, 3), torch.tensor([0]))
