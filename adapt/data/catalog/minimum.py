"""Whether a site's crops are enough to learn from, before hours are spent on them."""

from __future__ import annotations

from adapt.errors import TooFewCropsError
from adapt.types import UNTRACKED, CropSet
from models.wording import plural


def check_amount(
    crops: CropSet, *, identities: int, instances: int, smallest_cluster: int, by_identity: bool
) -> tuple[str, ...]:
    """Refuse a site that cannot fill a batch or shows one person; warn of a doubtful one.

    N >= P max(S, m) crops where batches are drawn by identity: P clusters of m crops or more, and S
    crops of each in a batch. Else N >= max(P S, 2 m).

    Args:
        identities, instances: P and S of a batch.
        smallest_cluster: m, minimum crops that the clustering takes for a person.
        by_identity: whether batches are drawn by identity.

    Returns:
        Warnings for people.

    Raises:
        TooFewCropsError: too few crops, or all of one track.
    """
    count = len(crops)
    each = max(instances, smallest_cluster) if by_identity else instances
    needed = max(identities * each, 2 * smallest_cluster)
    if count < needed:
        raise TooFewCropsError(
            f"{crops.root} has {plural(count, 'crop')}, this recipe needs at least {needed}: "
            f"batches of {identities} x {plural(instances, 'crop')}, and at least "
            f"{plural(smallest_cluster, 'crop')} in a cluster; add crops, or lower "
            "batch.identities and batch.instances with --set"
        )
    tracks = {sample.track for sample in crops.samples}
    if tracks == {UNTRACKED} or not tracks:
        return _camera_warning(crops)
    if len(tracks) == 1:
        raise TooFewCropsError(
            f"all {plural(count, 'crop')} of {crops.root} are of one track, so of one person, "
            "and there is nothing to learn; add crops of other people, or correct the column "
            "'track'"
        )
    if UNTRACKED not in tracks and len(tracks) < identities and by_identity:
        split = (
            f"{plural(len(tracks), 'track')} can show at most as many people, but a batch takes "
            f"{plural(identities, 'identity', 'identities')}: clusters will split "
            "people; lower batch.identities or add crops"
        )
        return (split, *_camera_warning(crops))
    return _camera_warning(crops)


def _camera_warning(crops: CropSet) -> tuple[str, ...]:
    if len(crops.cameras) > 1:
        return ()
    return (f"the crops of {crops.root} do not tell cameras apart: treated as one camera",)
