"""Accuracy and intersection over union, summed over the whole set, from one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix(Metric):
    r"""Counts ``(K, K)``: row = class of the target, column = predicted class; and the usual figures made of them.

    - overall accuracy: :math:`\sum_k c_{kk} / \sum c`,
    - mean class accuracy: mean over the classes of :math:`c_{kk} / \sum_j c_{kj}`,
    - mIoU: mean over the classes of :math:`c_{kk} / (\sum_j c_{kj} + \sum_i c_{ik} - c_{kk})`.

    The plain means count a class that occurs nowhere as 0, as the benchmarks do; ``..._present`` are means over the
    classes that the targets have.

    Args:
        num_classes: K.
        ignore: targets with this value take no part, whatever was predicted there.

    Example:
        >>> metric = ConfusionMatrix(num_classes=3)
        >>> metric.update(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, -1]))
        >>> metric.compute()["miou_present"], metric.compute()["accuracy"]
        (tensor(0.5000), tensor(0.6667))
    """

    counts: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self, *, num_classes: int, ignore: int = -1) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: found {num_classes}, expected at least 1")
        self.num_classes, self.ignore = num_classes, ignore
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add predicted classes and targets, both int64 ``(N,)``.

        Raises:
            ValueError: different lengths, or a class out of range.
        """
        if prediction.shape != target.shape or target.dim() != 1:
            raise ValueError(
                f"prediction, target: found shapes {tuple(prediction.shape)}, {tuple(target.shape)}; expected (N,)"
            )
        kept = target != self.ignore
        prediction, target = prediction[kept], target[kept]
        for name, values in (("prediction", prediction), ("target", target)):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self.num_classes:
                raise ValueError(
                    f"{name}: found the classes {int(values.min())} to {int(values.max())}, expected 0 to "
                    f"{self.num_classes - 1}; do classes and weights fit?"
                )
        pairs = target * self.num_classes + prediction
        self.counts += torch.bincount(pairs, minlength=self.num_classes**2).reshape(self.counts.shape)

    def class_iou(self) -> Tensor:
        """IoU of each class ``(K,)``; 0 where it occurs neither in targets nor in predictions."""
        hits = self.counts.diagonal().double()
        return hits / (self.counts.sum(0) + self.counts.sum(1) - hits + 1e-10)

    def class_accuracy(self) -> Tensor:
        """Recall of each class ``(K,)``; 0 where the targets lack it."""
        return self.counts.diagonal().double() / self.counts.sum(1).clamp(min=1)

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``class_accuracy``, ``miou`` and the last two as ``..._present``; NaN without data."""
        present = self.counts.sum(1) > 0
        recall, iou = self.class_accuracy(), self.class_iou()
        values = {
            "accuracy": self.counts.diagonal().sum().double() / self.counts.sum(),
            "class_accuracy": recall.mean(),
            "miou": iou.mean(),
            "class_accuracy_present": recall[present].mean(),
            "miou_present": iou[present].mean(),
        }
        return {name: value.float() for name, value in values.items()}
