# At 128 pixels, for a CPU.
_base_ = [
    '../_base_/models/fast-scnn.py', '../_base_/datasets/optic-disc-128.py',
    '../_base_/schedules/sgd_poly_1k.py', '../_base_/default_runtime.py'
]
model = dict(data_preprocessor=dict(size=(128, 128)))
