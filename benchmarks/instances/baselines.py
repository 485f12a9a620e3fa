"""What `separate` is compared with: simpler ways, and ways that know the truth and so show what limits it.

Each takes float32[H,W] and the true nuclei int32[H,W], and returns int32[H,W]. Lengths are those of 0.25 µm per pixel.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from msal_deploy.instances import separate

Labels = NDArray[np.int32]
Probability = NDArray[np.float32]
MIN_PIXELS = 64
CORE = 0.6  # of a nucleus's largest distance to its edge: what is deeper is its marker


def default(probability: Probability, truth: Labels) -> Labels:
    return separate(probability)


def connected(probability: Probability, truth: Labels) -> Labels:
    """Connected regions, not separated at all."""
    return _large(cv2.connectedComponents(_foreground(probability), connectivity=4)[1])


def peaks(probability: Probability, truth: Labels) -> Labels:
    """Watershed from the peaks of the smoothed distance transform, 8 pixels apart: the common way."""
    foreground = _foreground(probability)
    depth = cv2.GaussianBlur(cv2.distanceTransform(foreground, cv2.DIST_L2, 5), (0, 0), 2)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))
    markers = cv2.connectedComponents(((cv2.dilate(depth, disc) == depth) & (foreground > 0)).astype(np.uint8))[1]
    return _large(watershed(-depth, markers, mask=foreground > 0))


def true_foreground(probability: Probability, truth: Labels) -> Labels:
    """The default on a perfect mask."""
    return separate((truth > 0).astype(np.float32))


def true_markers(probability: Probability, truth: Labels) -> Labels:
    """Watershed of the found foreground from the cores of the true nuclei. What has no marker is a false nucleus."""
    foreground = _foreground(probability)
    depth = cv2.distanceTransform(foreground, cv2.DIST_L2, 5)
    found = watershed(-depth, np.where(foreground > 0, _cores(truth), 0), mask=foreground > 0)
    rest = cv2.connectedComponents(((foreground > 0) & (found == 0)).astype(np.uint8), connectivity=4)[1]
    return _large(np.where(rest > 0, rest + found.max(), found))


def true_separation(probability: Probability, truth: Labels) -> Labels:
    """Each found pixel belongs to the nearest true nucleus; regions that touch none are false nuclei."""
    foreground = _foreground(probability)
    row, column = ndimage.distance_transform_edt(truth == 0, return_distances=False, return_indices=True)
    regions = cv2.connectedComponents(foreground, connectivity=4)[1]
    touching = np.bincount(regions.ravel(), (truth > 0).ravel()) > 0
    return _large(np.where(touching[regions], truth[row, column], truth.max() + regions) * foreground)


def _foreground(probability: Probability) -> NDArray[np.uint8]:
    return (separate(probability) > 0).astype(np.uint8)


def _cores(truth: Labels) -> Labels:
    markers = np.zeros_like(truth)
    for label, window in enumerate(ndimage.find_objects(truth), 1):
        if window is not None:
            nucleus = np.pad(truth[window] == label, 1).astype(np.uint8)
            depth = cv2.distanceTransform(nucleus, cv2.DIST_L2, 5)[1:-1, 1:-1]
            markers[window][depth >= CORE * depth.max()] = label
    return markers


def _large(labels: NDArray[np.int_]) -> Labels:
    areas = np.bincount(labels.ravel())
    return np.where(areas[labels] >= MIN_PIXELS, labels, 0).astype(np.int32)
