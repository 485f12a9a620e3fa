"""Training recipes without any augmentation, to which a test adds what it looks at."""

import msgspec

from msal_deploy.recipe import AugmentRecipe, TrainRecipe

OFF = AugmentRecipe(flip=False, rotate=0.0, shift=0.0, shear=0.0, zoom=(1.0, 1.0))


def augment_only(**changes: object) -> AugmentRecipe:
    """Return the augmentation with these changes and nothing else."""
    return msgspec.structs.replace(OFF, **changes)


def plain(**changes: object) -> TrainRecipe:
    """Return patches of 64 px in batches of two, not augmented, but for these changes."""
    return TrainRecipe(**({"patch": 64, "batch": 2, "augment": OFF} | changes))
