"""`separate` the slow way: pixel by pixel, with dictionaries for arrays. Only the distances and the blur are shared."""

import cv2
import numpy as np


def neighbours(y, x):
    return (y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)


def slow_depth(foreground, probability, levels, sigma):
    """Distances to the edges of the foreground and of the levels in it, where there are edges: summed and blurred."""
    masks = [foreground, *(foreground & (probability >= level) for level in levels)]
    total = np.zeros(foreground.shape, np.float32)
    for mask in masks:
        if (~mask).any():
            total = total + cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return cv2.GaussianBlur(total, (0, 0), sigma)


def flood(mask, start, steps):
    """All pixels of a boolean mask that are reached from `start`."""
    found, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for dy, dx in steps:
            at = y + dy, x + dx
            inside = 0 <= at[0] < mask.shape[0] and 0 <= at[1] < mask.shape[1]
            if inside and mask[at] and at not in found:
                found.add(at)
                todo.append(at)
    return found


EIGHT = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
FOUR = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def filled(foreground, largest):
    result, seen = foreground.copy(), set()
    for at in zip(*np.nonzero(~foreground), strict=True):
        if at in seen:
            continue
        hole = flood(~foreground, at, EIGHT)
        seen |= hole
        ys, xs = zip(*hole, strict=True)
        inside = min(ys) and min(xs) and max(ys) < foreground.shape[0] - 1 and max(xs) < foreground.shape[1] - 1
        if inside and len(hole) <= largest:
            result[ys, xs] = True
    return result


def slow_separate(probability, threshold, largest_hole, levels, sigma, saddle, smallest):
    """Lengths and areas in pixels."""
    foreground = filled(probability >= threshold, largest_hole)
    depth = slow_depth(foreground, probability, levels, sigma)
    height = {(int(y), int(x)): depth[y, x] for y, x in zip(*np.nonzero(foreground), strict=True)}
    peak = {at: climb(height, at) for at in height}
    groups = {at: {at} for at in set(peak.values())}  # peaks of one nucleus
    top = {at: height[at] for at in groups}
    for value, a, b in sorted(passes(height, peak), key=lambda one: (-one[0], *sorted(one[1:]))):
        first, second = groups[a], groups[b]
        if first is not second and value >= saddle * min(top[a], top[b]):
            both, highest = first | second, max(top[a], top[b])
            for at in both:
                groups[at], top[at] = both, highest
    return numbered(probability.shape, {at: min(groups[peak[at]]) for at in height}, smallest)


def climb(height, at):
    while True:
        best = max((at, *(n for n in neighbours(*at) if n in height)), key=lambda n: (height[n], -n[0], -n[1]))
        if best == at:
            return at
        at = best


def passes(height, peak):
    """Each pair of neighbouring pixels in different basins: the lower of the two, and the basins."""
    for y, x in height:
        for other in ((y, x + 1), (y + 1, x)):
            if other in height and peak[other] != peak[y, x]:
                yield min(height[y, x], height[other]), peak[y, x], peak[other]


def numbered(shape, nucleus_of, smallest):
    labels, numbers = np.zeros(shape, np.int32), {}
    sizes = {nucleus: list(nucleus_of.values()).count(nucleus) for nucleus in set(nucleus_of.values())}
    for at in sorted(nucleus_of):
        if sizes[nucleus_of[at]] >= smallest:
            labels[at] = numbers.setdefault(nucleus_of[at], len(numbers) + 1)
    return labels
