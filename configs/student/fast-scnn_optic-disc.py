_base_ = [
    '../_base_/models/fast-scnn.py', '../_base_/datasets/optic-disc.py',
    '../_base_/schedules/sgd_poly_1k.py', '../_base_/default_runtime.py'
]
