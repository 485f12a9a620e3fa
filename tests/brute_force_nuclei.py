"""The metrics of nuclei computed the slow way, from one mask for each nucleus, to compare the fast way with."""

from fractions import Fraction

import numpy as np


def masks(labels):
    return [labels == label for label in np.unique(labels) if label]


def iou(a, b):
    return Fraction(int((a & b).sum()), int((a | b).sum()))


def counted(truth, found):
    """Intersection and union of the AJI by the challenge's algorithm, then matched pairs and the sum of their IoU."""
    intersection, union, used = 0, 0, set()
    matched = []
    founds = masks(found)
    for true in masks(truth):
        ious = [iou(true, one) for one in founds]
        best = max(range(len(ious)), key=ious.__getitem__, default=None)  # the first of equals: the lowest label
        if best is None or not ious[best]:
            union += int(true.sum())
            continue
        used.add(best)
        intersection += int((true & founds[best]).sum())
        union += int((true | founds[best]).sum())
        matched += [one for one in ious if one > Fraction(1, 2)]
    union += sum(int(one.sum()) for index, one in enumerate(founds) if index not in used)
    return intersection, union, len(matched), sum(matched, Fraction(0))


def changed(reference, found):
    """Split, merged, lost and gained, from every pair of masks."""
    ours, theirs = masks(reference), masks(found)
    overlap = np.array([[(a & b).sum() for b in theirs] for a in ours], int).reshape(len(ours), len(theirs))
    theirs_inside = overlap * 2 > np.array([b.sum() for b in theirs], int)
    ours_inside = overlap * 2 > np.array([[a.sum()] for a in ours], int).reshape(-1, 1)
    either = theirs_inside | ours_inside
    return (
        int((theirs_inside.sum(axis=1) >= 2).sum()),
        int((ours_inside.sum(axis=0) >= 2).sum()),
        int((~either.any(axis=1)).sum()),
        int((~either.any(axis=0)).sum()),
    )
