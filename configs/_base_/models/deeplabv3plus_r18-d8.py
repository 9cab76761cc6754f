# The student of the recipe: the same model with ResNet18_vd, whose stages are a quarter as wide. mmseg's BasicBlock
# dilates its first convolution only, PaddleSeg's both: the one difference that a config cannot express.
_base_ = ['./deeplabv3plus_r50-d8.py']
model = dict(
    backbone=dict(depth=18, multi_grid=(4 * 1, 4 * 2)),
    decode_head=dict(in_channels=512, c1_in_channels=64))
