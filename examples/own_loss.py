"""A loss of one's own, which examples/custom_loss.py trains with. The declaration is all that rdistill needs."""

from rdistill.losses import Number, register
from rdistill.losses.common import full_mask, mean_where


@register(
    "HardPixelKL",
    on=("logits",),
    weight=3.0,
    params={"share": Number(above=0, at_most=1)},
    softmax=True,
    exchanges=("counts",),
    paper="OHEM's selection (Shrivastava et al., CVPR 2016) with Hinton's loss",
    formula="mean of KL(t || s) over the share of pixels where it is greatest",
    use_when="Most pixels are easy, and their many small differences outweigh the few that matter.",
)
def hard_pixel_kl(student, teacher, *, mask=None, share=0.25):
    """KL of the pixels on which the two disagree most.

    Args:
        student, teacher: logits, N x C x H x W.
        mask: N x H x W, True where a pixel counts.
        share: of the pixels that count, 0 to 1.
    """
    log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)  # N x 1 x H x W
    valid = full_mask(mask, divergence)
    if not valid.any():
        return mean_where(divergence, valid)  # a zero that still has a gradient
    limit = divergence.detach()[valid].quantile(1 - share)
    return mean_where(divergence, valid & (divergence.detach() >= limit))
