# Fast-SCNN (BMVC 2019) as mmseg has it, for two classes: softmax instead of a sigmoid for each class, as the teachers
# have it, and no auxiliary heads.
_base_ = ['mmseg::_base_/models/fast_scnn.py']
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], size=(512, 512)),
    decode_head=dict(num_classes=2, loss_decode=dict(use_sigmoid=False)),
    auxiliary_head=None)
